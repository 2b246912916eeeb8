# Compiles an operator for Jittor, in place of its asm_tuner.py (jit.py):
#     sh jit.sh --python=... --header=... --flags=... .../asm_tuner.py --cc_path=COMPILER SOURCE OPTION ...
# $flags are several. Linking is a step of its own, without -Ofast: with it, g++ 12 and older make a
# library that switches subnormal numbers off in the process that loads it. The result appears when it is
# complete.
python="${1#--python=}" header="${2#--header=}" flags="${3#--flags=}" tuner="$4"
shift 4

compile() { # compile --cc_path=COMPILER SOURCE OPTION ...
  compiler="${1#--cc_path=}" source="$2" object="$header.$$.o" output= part="$header.$$.part" before=
  shift 2
  trap 'rm -f "$object" "$part"' EXIT
  "$compiler" $flags -DJIT=1 -DJIT_cpu=1 ${included:+-include "$header"} "$source" "$@" -c -o "$object" || return
  for option; do
    shift
    if [ "$before" = -o ]; then
      output="$option"
      option="$part"
    fi
    [ "$option" = -Ofast ] || set -- "$@" "$option"
    before="$option"
  done
  "$compiler" "$object" "$@" && mv "$part" "$output"
}

case "$tuner" in
  */asm_tuner.py)
    included=
    [ -f "$header.gch" ] && included=yes
    (compile "$@") 2>/dev/null && exit
    ;;
esac
exec "$python" "$tuner" "$@"
