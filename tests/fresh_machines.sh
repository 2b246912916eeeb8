#!/usr/bin/env bash
# Tries the README's commands where users are, and prints a table for the README.
#
#     sudo tests/fresh_machines.sh FOLDER bookworm trixie sid ~/.pyenv/versions/3.*/bin/python
#
# A word is a suite of Debian or an interpreter. Of a suite, debootstrap makes a machine in FOLDER,
# which the next call uses again, with the packages that the README names and nothing else; an
# ordinary user with an empty home runs both commands there, and some of the tests. An interpreter
# gets environments that have NumPy 1 and NumPy 2 already, and a home that is empty. The last column
# is a digest of the network that fit has trained.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="$(mkdir -p "$1" && cd "$1" && pwd)"
packages="$(sed -n 's/.*`apt install \(g++[^`]*\)`.*/\1/p' "$root/README.md" | head -n 1)"
certificates=/etc/ssl/certs/ca-certificates.crt # this machine's, which may know a proxy of its own
small="--epochs 5 --sidelength 32"
some_tests="tests/runtime tests/engine tests/tasks tests/test_run_sh.py"
describe='import hashlib, platform, numpy, scipy
with numpy.load("outputs/fit/network.npz") as network:
    content = b"".join(network[name].tobytes() for name in sorted(network.files))
print(platform.python_version(), numpy.__version__, scipy.__version__, sep=" | ")
print(hashlib.sha256(content).hexdigest()[:8])'

row() { # row PLACE NAME COMMAND...: both commands and some tests, each run by COMMAND
  local log="$folder/$1" name="$2" begin first second tests
  shift 2
  begin=$SECONDS
  "$@" "./run.sh $small" >"$log-run.log" 2>&1 && first="$((SECONDS - begin)) s" || first=failed
  begin=$SECONDS
  "$@" "./run.sh tuned $small" >"$log-tuned.log" 2>&1 && second="$((SECONDS - begin)) s" || second=failed
  if [[ -n "$some_tests" ]]; then
    "$@" "./run.sh test $some_tests" >"$log-test.log" 2>&1 || true
    tests="$(grep -Eo '^.*(passed|failed|error).* in ' "$log-test.log" | tail -n 1)"
    tests=" | ${tests% in }"
  fi
  mapfile -t facts < <("$@" "g++ -dumpfullversion; \${VIRTUAL_ENV:-.venv}/bin/python -c '$describe'")
  echo "| $name | ${facts[0]:-} | ${facts[1]:-} | $first | $second${tests:-} | ${facts[2]:-} |"
}

# ---- a machine -----------------------------------------------------------------------------------

make_machine() { # make_machine SUITE: a root with the README's packages and an ordinary user
  local machine="$folder/$1"
  [[ ! -d "$machine/home/user" ]] || return 0
  debootstrap --variant=minbase "$1" "$machine" >"$machine.log" 2>&1
  cp /etc/resolv.conf "$machine/etc/resolv.conf"
  chroot "$machine" apt-get -o Acquire::Check-Valid-Until=false update >>"$machine.log" 2>&1
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive chroot "$machine" apt-get install -y $packages >>"$machine.log" 2>&1
  [[ ! -f $certificates ]] || install -D "$certificates" "$machine$certificates"
  chroot "$machine" useradd --create-home user
}

in_machine() { # in_machine SUITE COMMAND: run it as the ordinary user
  chroot --userspec=user:user "$folder/$1" env -i HOME=/home/user PATH=/usr/bin:/bin LANG=C.UTF-8 \
    PIP_CERT=$certificates bash -c "cd /home/user/siren-jittor && $2"
}

try_machine() { # try_machine SUITE
  local machine="$folder/$1" system
  make_machine "$1"
  for system in proc dev; do
    mount --rbind --make-rslave "/$system" "$machine/$system"
  done
  rm -rf "$machine/home/user"
  git clone -q "$root" "$machine/home/user/siren-jittor"
  chroot "$machine" chown -R user:user /home/user
  row "$1" "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' "$machine/etc/os-release")" in_machine "$1"
  umount -R "$machine/proc" "$machine/dev"
}

# ---- an interpreter ------------------------------------------------------------------------------

with_numpy() { # with_numpy PLACE COMMAND: run it in the environment there
  (cd "$folder/$1/clone" && HOME="$folder/$1" VIRTUAL_ENV="$folder/$1/env" bash -c "$2")
}

try_interpreter() { # try_interpreter PYTHON: with the oldest NumPy that there is for it, and others
  local numpy place some_tests=""
  for numpy in 1.22.4 1.26.4 2; do
    place="$("$1" -c 'import platform; print(platform.python_version())')-numpy-$numpy"
    rm -rf "${folder:?}/$place"
    "$1" -m venv "$folder/$place/env"
    "$folder/$place/env/bin/pip" install -q --only-binary :all: \
      "numpy$([[ $numpy == 2 ]] && echo '>=2' || echo "==$numpy")" >"$folder/$place.log" 2>&1 || continue
    git clone -q "$root" "$folder/$place/clone"
    row "$place" "environment with NumPy" with_numpy "$place"
  done
}

echo "$(date +%F), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores"
echo
echo "| machine | g++ | Python, NumPy, SciPy | ./run.sh | tuned | tests | network |"
for word in "${@:2}"; do
  if [[ "$word" == */* ]]; then try_interpreter "$word"; else try_machine "$word"; fi
done
