#!/usr/bin/env bash
# Prepares a Python environment once, then runs the experiments or the tests; see ./run.sh help.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  cat <<'TEXT'
usage: ./run.sh [OPTION ...]         run all four experiments, quickest first
       ./run.sh tuned [OPTION ...]   the same with --recipe tuned: better results in far less time
       ./run.sh TASK [OPTION ...]    run one: fit, poisson, edit or inpaint
       ./run.sh compare [TASK] [OPTION ...]
                                     run a task (fit) with both recipes, and draw them side by side
       ./run.sh test [ARGUMENT ...]  check the style and run the tests (arguments go to pytest)
       ./run.sh test --all           the same, and what takes minutes
       ./run.sh help                 print this

Options are passed on to main.py (python main.py --help lists them), for example
       ./run.sh --epochs 50 --sidelength 128
       ./run.sh fit --epochs 100 --input_path picture.png
When all four run, each ignores the options that it does not have.
Results go to outputs/TASK (tuned: outputs/TASK-tuned), and a page of all of them to
outputs/index.html. The active virtualenv or conda environment is used (but not conda's "base");
without one, .venv is used and created if it is missing.
TEXT
}

fail() { # fail STATUS SENTENCE
  echo "run.sh: $2" >&2
  exit "$1"
}

# ---- the environment ---------------------------------------------------------------------------

supported="Python 3.9 to 3.14, but not the free-threaded build"
inspect='import os, sys, sysconfig
from importlib.util import find_spec
folders = [sysconfig.get_path(name) for name in ("include", "platinclude")]
fits = (3, 9) <= sys.version_info[:2] <= (3, 14) and not sysconfig.get_config_var("Py_GIL_DISABLED")
print("%d.%d" % sys.version_info[:2],
      "fits" if fits else "-",
      "headers" if any(os.path.exists(os.path.join(f, "Python.h")) for f in folders) else "-",
      "venv" if find_spec("ensurepip") else "-")'

facts() { # facts PYTHON: prints "3.11 fits headers venv", with - for no; fails if PYTHON does not run
  "$1" -c "$inspect" 2>/dev/null # a pyenv shim can exist without running
}

find_python() { # sets python to the newest interpreter that has all it needs, or else that fits
  local candidate known score best=0
  for candidate in python3.{14,13,12,11,10,9} python3 python; do
    known="$(facts "$candidate" || true)"
    [[ "$known" == *fits* ]] || continue
    score="${known%% *}"
    score="${score#3.}"
    [[ "$known" != *"headers venv" ]] || ((score += 100))
    if ((score > best)); then
      best="$score"
      python="$candidate"
    fi
  done
  ((best)) || fail 1 "Jittor needs $supported, and there is none here; install the package python3."
}

check_system() { # check_system FACTS: fails without the compiler and headers that Jittor needs
  local missing=()
  command -v "${cc_path:-g++}" >/dev/null || missing+=("g++ (Fedora: gcc-c++)")
  [[ "$1" == *headers* || -n "${python_config_path:-}" ]] ||
    missing+=("python${1%% *}-dev (Fedora: python3-devel)")
  ((${#missing[@]} == 0)) || fail 1 "Jittor compiles its kernels on this machine and needs the \
package ${missing[0]}${missing[1]:+ and the package ${missing[1]}}; please install it."
}

choose_environment() { # sets environment (a folder), variable (that names it) and python
  if [[ -n "${VIRTUAL_ENV:-}" ]]; then
    environment="$VIRTUAL_ENV" variable=VIRTUAL_ENV
  elif [[ -n "${CONDA_PREFIX:-}" && "${CONDA_DEFAULT_ENV:-}" != base ]]; then
    environment="$CONDA_PREFIX" variable=CONDA_PREFIX
  else
    environment="$root/.venv" variable=
  fi
  python="$environment/bin/python"
}

check_environment() { # fails if the active environment is gone, or what is left of it does not run
  local what
  if [[ ! -d "$environment" ]]; then
    what="is gone"
  elif [[ ! -x "$python" ]]; then
    what="has no Python any more ($python)"
  elif ! "$python" -c "" 2>/dev/null; then
    what="has a Python that does not run ($python)"
  else
    return 0
  fi
  fail 1 "the environment $environment, which the variable $variable names, $what; deactivate it, \
or unset $variable, and try again."
}

prepare_environment() { # checks the machine, and creates .venv if it is used and missing
  local own="$root/.venv" known
  if [[ "$environment" == "$own" ]] && ! facts "$python" >/dev/null; then
    find_python
    known="$(facts "$python")"
    check_system "$known"
    [[ "$known" == *venv ]] || fail 1 "Python ${known%% *} cannot create environments; \
install the package python${known%% *}-venv."
    echo "Creating .venv with Python ${known%% *} ..." >&2
    "$python" -m venv --clear "$own"
    python="$own/bin/python"
    return
  fi
  check_environment
  known="$(facts "$python" || true)"
  [[ "$known" == *fits* ]] || fail 1 "Jittor needs $supported, which $python is not; \
$([[ "$environment" == "$own" ]] && echo "remove .venv" || echo "deactivate that environment") \
and try again."
  check_system "$known"
}

install() { # install FILE: the first time, and after every change of what is required
  local stamp="$environment/.siren-${1//\//-}" wanted
  wanted="$(cat "$root/$1" "$root/siren/runtime/install.py")"
  if [[ -x "$python" && -f "$stamp" && "$(<"$stamp")" == "$wanted" ]]; then
    return
  fi
  prepare_environment
  "$python" "$root/siren/runtime/install.py" "$root/$1" || exit 1
  { echo "$wanted" >"$stamp"; } 2>/dev/null || true # an environment that this user cannot write
}

# ---- the commands ------------------------------------------------------------------------------

check_agreement() { # check_agreement WORD OPTION VALUE ARGUMENT ...: WORD means OPTION VALUE
  local word="$1" option="$2" value="$3" given
  shift 3
  while (($#)); do
    given="$value"
    case "$1" in
      "$option") given="${2-$value}" ;;
      "$option="*) given="${1#*=}" ;;
    esac
    [[ "$given" == "$value" ]] ||
      fail 2 "\"$word\" and $option $given contradict each other; leave one of them out."
    shift
  done
}

compare() { # compare TASK OPTION ...: both recipes in their usual folders
  local task="$1" option
  for option in "${@:2}"; do
    case "$option" in
      -h | --help) exec "$python" "$root/main.py" --help ;;
      --output_dir* | --recipe* | --task*)
        fail 2 "compare runs both recipes into outputs/$task and outputs/$task-tuned; leave $option out."
        ;;
    esac
  done
  trap 'exit 130' INT # Ctrl-C ends both, even if the first one saves its results and ends well
  "$python" "$root/main.py" --task "$task" "${@:2}"
  "$python" "$root/main.py" --task "$task" --recipe tuned "${@:2}"
  cd "$root"
  "$python" -m siren.output.panel "outputs/$task" "outputs/$task-tuned" "outputs/$task-compared"
}

command="${1-}"
case "$command" in
  help | --help | -h)
    usage
    exit
    ;;
  fit | poisson | edit | inpaint)
    shift
    check_agreement "$command" --task "$command" "$@"
    ;;
  test) shift ;;
  compare)
    shift
    task=fit
    case "${1-}" in
      fit | poisson | edit | inpaint)
        task="$1"
        shift
        ;;
      "" | -*) ;;
      *) fail 2 "there is no task \"$1\"; choose fit, poisson, edit or inpaint." ;;
    esac
    ;;
  "" | -*) command=all ;;
  tuned)
    command=all
    shift
    check_agreement tuned --recipe tuned "$@"
    set -- --recipe tuned "$@"
    ;;
  *) fail 2 "there is no task \"$command\"; choose fit, poisson, edit, inpaint, tuned, compare, test or help." ;;
esac

choose_environment
if [[ "$command" == test ]]; then
  install requirements.txt
  install tests/requirements.txt
  cd "$root"
  "$python" -m ruff check .
  if [[ "${1-}" == --all ]]; then
    set -- -m "" "${@:2}"
  fi
  exec "$python" -m pytest "$@"
fi
install requirements.txt
if [[ "$command" == compare ]]; then
  compare "$task" "$@"
  exit
fi
exec "$python" "$root/main.py" --task "$command" "$@"
