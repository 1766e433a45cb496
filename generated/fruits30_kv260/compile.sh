#!/usr/bin/env bash
# Compiles the quantised network for one board with AMD's vai_c_xir, checks what it made, and assembles the board's folder.
#
# Made by dpuforge from "spec/fruits30_kv260.yaml"; do not edit.
# Change the spec, then run: "dpuforge generate spec/fruits30_kv260.yaml"
#
# usage: compile.sh BOARD [--root DIR] [--build DIR] [--xmodel FILE]
#   BOARD     a folder of boards/ beside this script, which says what differs from board to board
#   --root    project root (default: two folders above this script's)
#   --build   where the stages write (default: ROOT/build/fruits30_kv260)
#   --xmodel  quantised xmodel (default: BUILD/deploy/resnet18_fruits30_int.xmodel)
# exit codes: 0 done, 2 bad usage, 3 compiling failed or a check refused the result, 4 vai_c_xir or python3 is missing
set -euo pipefail

net_name=resnet18_fruits30
spec=spec/fruits30_kv260.yaml
dpu_subgraphs=1

fail() { # CODE MESSAGE...
    local code=$1
    shift
    printf 'compile.sh%s: %s\n' "${board:+ ($board)}" "$*" >&2
    exit "$code"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
board=
build=
xmodel=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set -euo/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --root | --build | --xmodel) [ $# -gt 1 ] || fail 2 "$1 needs a value" ;;
        -*) fail 2 "unknown argument $1, see --help" ;;
        *)
            [ -z "$board" ] || fail 2 "one board at a time, got $1 too"
            board=$1
            shift
            continue
            ;;
    esac
    case $1 in
        --root) root=$2 ;;
        --build) build=$2 ;;
        --xmodel) xmodel=$2 ;;
    esac
    shift 2
done
known=$(cd "$here/boards" && printf ' %s' *)
[ -n "$board" ] || fail 2 "which board? This project's are$known"
case $board in
    *[!A-Za-z0-9._-]* | .*) fail 2 "a board has another name than $board; this project's are$known" ;;
esac
[ -f "$here/boards/$board/board.env" ] || fail 2 "there is no board $board; this project's are$known"

value() { # KEY: what board.env says of it; data, so it is read and never sourced
    sed -n "s/^$1='\([^']*\)'\$/\1/p" "$here/boards/$board/board.env"
}
fingerprint=$(value FINGERPRINT)
arch=$here/boards/$board/arch.json
# Empty where arch.json names the DPU by its fingerprint alone: then the compiler prints no name to compare.
target=$(sed -n 's/.*"target": *"\([^"]*\)".*/\1/p' "$arch")
build=${build:-$root/build/fruits30_kv260}
output=$build/compile/$board
log=$output/vai_c_xir.log

# The DPU that the board itself reported decides, also where it was locked after this script was made.
lock=$root/${spec%.*}.lock.yaml
if [ -f "$lock" ]; then
    locked=$(sed -n "/^  $board:\$/,/^  [^ ]/s/^    fingerprint: \"\(0x[0-9a-f]*\)\"\$/\1/p" "$lock" | head -n 1)
    [ -z "$locked" ] || [ "$locked" = "$fingerprint" ] ||
        fail 3 "the board reported the DPU $locked ($lock), this script builds for ${fingerprint:-an unknown one}" \
            "of Vitis AI $(value RELEASE):" 'dpuforge generate spec/fruits30_kv260.yaml says which release and image fit'
fi

if [ -z "$xmodel" ]; then
    xmodel=$build/deploy/${net_name}_int.xmodel
fi
command -v vai_c_xir >/dev/null || fail 4 "vai_c_xir is not on PATH; it lives inside AMD's image $(value IMAGE)"
command -v python3 >/dev/null || fail 4 "python3 is not on PATH; it assembles the board's folder"

record() { # [--failed REASON]: result.json says what was made and from what, whoever started this script
    python3 "$here/results.py" compile "$board" --root "$root" --build "$build" --input "$xmodel" "$@" --scripts \
        compile.sh \
        bundle.py \
        results.py \
        deploy/app.py \
        deploy/app.cpp \
        deploy/bench.py \
        deploy/CMakeLists.txt \
        deploy/preprocess.py \
        deploy/preprocess.hpp \
        deploy/resnet18_fruits30.prototxt \
        deploy/resnet18_fruits30.service \
        "boards/$board/arch.json" "boards/$board/board.env"
}

# What an earlier run left must not pass for the result of this one.
mkdir -p "$output"
exec 8<>"$build/.compile.$board.lock" 9<>"$build/.lock" # held until this script ends: one at a time writes here
python3 "$here/results.py" compile "$board" --root "$root" --build "$build" --hold 8 9 || exit 3
rm -rf "${build:?}/bundle/$board"
rm -f "$output/$net_name.xmodel" "$output/refused.xmodel" "$output/md5sum.txt" "$output/meta.json" "$output/result.json"

status=0
vai_c_xir -x "$xmodel" -a "$arch" -o "$output" -n "$net_name" 2>&1 | tee "$log" || status=$?
compiled=$output/$net_name.xmodel
refuse() { # MESSAGE...: fail, and leave what was compiled under a name that nobody takes for a result
    [ ! -e "$compiled" ] || mv -f "$compiled" "$output/refused.xmodel"
    record --failed "compile.sh ($board): $*" || true
    fail 3 "$@"
}
if [ "$status" -ne 0 ]; then
    [ -f "$xmodel" ] || refuse "the quantised xmodel $xmodel does not exist; run the deploy stage first"
    refuse "vai_c_xir stopped with exit code $status, see $log"
fi

# vai_c_xir has failures that exit 0, so the exit code alone proves nothing.
if grep -F '[UNILOG][FATAL]' "$log" >&2; then
    refuse "vai_c_xir logged a fatal error, see $log"
fi
[ -s "$compiled" ] || refuse "vai_c_xir ended well, and yet $compiled does not exist or is empty"
[ -s "$output/md5sum.txt" ] || refuse "$output/md5sum.txt is missing"
recorded=$(tr -d '[:space:]' <"$output/md5sum.txt")
actual=$(md5sum <"$compiled")
actual=${actual%% *}
[ "$actual" = "$recorded" ] || refuse "md5 of $compiled is $actual, md5sum.txt says $recorded"

counted=$(sed -n 's/.*DPU subgraph number \([0-9][0-9]*\).*/\1/p' "$log" | tail -n 1)
[ -n "$counted" ] || refuse "$log does not say how many DPU subgraphs there are"
[ "$counted" -eq "$dpu_subgraphs" ] ||
    refuse "$counted DPU subgraphs, the spec demands $dpu_subgraphs: an operator runs on the CPU in between"
built_for=$(sed -n 's/.*Target architecture: \([A-Za-z0-9_]*\).*/\1/p' "$log" | tail -n 1)
[ -z "$target" ] || [ -z "$built_for" ] || [ "$built_for" = "$target" ] ||
    refuse "compiled for $built_for, the board's DPU is $target: it would refuse the fingerprint"

printf 'compile.sh (%s): %s, md5 %s, %s DPU subgraph(s)\n' "$board" "$compiled" "$actual" "$counted"
python3 "$here/bundle.py" "$board" --root "$root" --build "$build" || {
    record --failed "the board's folder was not assembled" || true
    fail 3 "the board's folder was not assembled"
}
record || fail 3 "its result could not be recorded"
