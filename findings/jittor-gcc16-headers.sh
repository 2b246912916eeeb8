#!/usr/bin/env bash
# Jittor 1.3.11 does not compile with g++ 16: two of its headers rely on what older versions let pass.
#
# types.h uses uint64_t without <cstdint>, which no other header of the library includes in passing any more.
# misc/stack_vector.h calls a member that the class does not have, in an inner class of a template; g++ 16
# looks although the function is never called.
#
# Seen on 2026-11-28 with jittor 1.3.11.0:
#
#     g++ 12.2.0, 14.2.0  both compile
#     g++ 16.2.0          types.h, by utils/log.h: error: 'uint8_t' does not name a type
#                         misc/stack_vector.h: error: ... has no member named 'at'
set -euo pipefail
python="${PYTHON:-python3}" compiler="${CXX:-g++}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
"$folder/env/bin/pip" download -q --no-deps -d "$folder" jittor==1.3.11.0
"$python" -m zipfile -e "$folder"/jittor-*.whl "$folder/jittor" 2>/dev/null ||
  tar -xf "$folder"/jittor-*.tar.gz -C "$folder"
source="$(dirname "$(find "$folder" -name types.h -path '*/src/types.h' | head -n 1)")"
include="$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
problem() { # problem HEADER OPTION ...: its first error, or "compiles"
  echo "#include \"$1\"" >"$folder/one.cc"
  if "$compiler" -std=c++14 -fsyntax-only -w -I"$source" -I"$include" "${@:2}" "$folder/one.cc" 2>"$folder/errors"; then
    echo compiles
  else
    grep -m 1 -o "error: .*" "$folder/errors"
  fi
}
version="$("$compiler" -dumpfullversion)"
types="$(problem utils/log.h)"
stack="$(problem misc/stack_vector.h -include cstdint)"
echo "g++ $version  types.h, by utils/log.h: $types"
echo "g++ $version  misc/stack_vector.h: $stack"
if ((${version%%.*} >= 16)); then
  [[ "$types" == *"does not name a type"* && "$stack" == *"at"* ]]
else
  [[ "$types $stack" == "compiles compiles" ]]
fi
