#!/usr/bin/env bash
# Jittor 1.3.11 on Python 3.13: whatever it compiles as a module of its own cannot be loaded. That is every
# jt.compile_custom_op, and its own parts for MPI, cuBLAS, cuRAND and cuDNN: so there is no GPU.
#
# The module is imported by exec("import ...") in a function and then looked for in locals(), which
# since Python 3.13 (PEP 667) is a copy that exec does not change.
#
# Seen on 2026-11-28 with jittor 1.3.11.0, numpy 2.2.6 (which needs no array here), g++ 12.2:
#
#     Python 3.12.1  the operator is there
#     Python 3.13.0  KeyError: 'gen_ops_one...'
set -euo pipefail
old="${OLD_PYTHON:-python3.12}" new="${NEW_PYTHON:-python3.13}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cat >"$folder/one.py" <<'PYTHON'
import jittor as jt
header = """
#pragma once
#include "op.h"
namespace jittor {
struct OneOp : Op {
    Var* output;
    OneOp(NanoVector shape, NanoString dtype=ns_float32);
    const char* name() const override { return "one"; }
    DECLARE_jit_run;
};
}
"""
source = """
#include "var.h"
#include "one_op.h"
namespace jittor {
#ifndef JIT
OneOp::OneOp(NanoVector shape, NanoString dtype) {
    flags.set(NodeFlags::_cpu);
    output = create_output(shape, dtype);
}
void OneOp::jit_prepare(JK& jk) { jk << "[T:" << output->dtype() << ']'; }
#else
void OneOp::jit_run() {}
#endif
}
"""
try:
    jt.compile_custom_op(header, source, "one", warp=False)
    print("the operator is there")
except KeyError as error:
    print("KeyError:", error)
PYTHON
run() { # run PYTHON NUMPY
  "$1" -m venv --clear "$folder/env"
  "$folder/env/bin/pip" install -q numpy=="$2" pillow tqdm astunparse
  "$folder/env/bin/pip" install -q --no-deps jittor==1.3.11.0
  HOME="$folder" use_mkl=0 use_mpi=0 nvcc_path="" log_silent=1 \
    python_config_path="$(dirname "$(readlink -f "$folder/env/bin/python")")/python3-config" \
    "$folder/env/bin/python" "$folder/one.py" 2>&1 | tail -n 1
}
first="$(run "$old" 1.26.4)"
echo "$("$old" --version)  $first"
second="$(run "$new" 2.2.6)"
echo "$("$new" --version)  $second"
[[ "$first" == "the operator is there" && "$second" == KeyError:* ]]
