# Compiles an operator for Jittor, in place of its asm_tuner.py (jit.py):
#     sh jit.sh --python=... --header=... --flags=... .../asm_tuner.py --cc_path=COMPILER SOURCE OPTION ...
python="${1#--python=}" header="${2#--header=}" flags="${3#--flags=}" tuner="$4"
shift 4
case "$tuner" in
  */asm_tuner.py)
    if [ -f "$header.gch" ]; then
      compiler="${1#--cc_path=}" source="$2"
      shift 2
      # shellcheck disable=SC2086
      "$compiler" $flags -DJIT=1 -DJIT_cpu=1 -include "$header" "$source" "$@" 2>/dev/null && exit
      set -- "--cc_path=$compiler" "$source" "$@"
    fi
    ;;
esac
exec "$python" "$tuner" "$@"
