#!/usr/bin/env bash
# Compiles the quantised network for ZCU102 with AMD's vai_c_xir and checks what it made.
#
# Made by dpuforge from spec/boards_matrix.yaml; do not edit, change the spec and run: dpuforge generate spec/boards_matrix.yaml
# Release 2.5, DPU DPUCZDX8G_ISA1_B4096, fingerprint 0x101000016010407.
#
# usage: compile.sh [--root DIR] [--build DIR] [--xmodel FILE]
#   --root    project root (default: three folders above this script's project folder)
#   --build   where the stages write (default: ROOT/build/boards_matrix)
#   --xmodel  quantised xmodel (default: BUILD/deploy/mobilenet_v2_matrix_int.xmodel)
# exit codes: 0 done, 2 bad usage, 3 compiling failed or a check refused the result, 4 vai_c_xir is missing
set -euo pipefail

board=ZCU102
net_name=mobilenet_v2_matrix
target=DPUCZDX8G_ISA1_B4096
fingerprint=0x101000016010407
spec=spec/boards_matrix.yaml
dpu_subgraphs=1

fail() { # CODE MESSAGE...
    local code=$1
    shift
    printf 'compile.sh (%s): %s\n' "$board" "$*" >&2
    exit "$code"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../../.." && pwd)
build=
xmodel=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set -euo/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --root | --build | --xmodel) [ $# -gt 1 ] || fail 2 "$1 needs a value" ;;
        *) fail 2 "unknown argument $1, see --help" ;;
    esac
    case $1 in
        --root) root=$2 ;;
        --build) build=$2 ;;
        --xmodel) xmodel=$2 ;;
    esac
    shift 2
done
build=${build:-$root/build/boards_matrix}
output=$build/compile/$board
log=$output/vai_c_xir.log

# The DPU that the board itself reported decides, also where it was locked after this script was made.
lock=$root/${spec%.*}.lock.yaml
if [ -f "$lock" ]; then
    locked=$(sed -n "/^  $board:\$/,/^  [^ ]/s/^    fingerprint: \"\(0x[0-9a-f]*\)\"\$/\1/p" "$lock" | head -n 1)
    [ -z "$locked" ] || [ "$locked" = "$fingerprint" ] ||
        fail 3 "the board reported the DPU $locked ($lock), this script builds for $fingerprint of Vitis AI" \
            2.5: 'dpuforge generate spec/boards_matrix.yaml says which release and image fit'
fi

if [ -z "$xmodel" ]; then
    xmodel=$build/deploy/${net_name}_int.xmodel
fi
command -v vai_c_xir >/dev/null || fail 4 "vai_c_xir is not on PATH; it lives inside AMD's image xilinx/vitis-ai-cpu:2.5.0"

# What an earlier run left must not pass for the result of this one.
mkdir -p "$output"
rm -f "$output/$net_name.xmodel" "$output/md5sum.txt" "$output/meta.json"

status=0
vai_c_xir -x "$xmodel" -a "$here/arch.json" -o "$output" -n "$net_name" 2>&1 | tee "$log" || status=$?
if [ "$status" -ne 0 ]; then
    [ -f "$xmodel" ] || fail 3 "the quantised xmodel $xmodel does not exist; run the deploy stage first"
    fail 3 "vai_c_xir stopped with exit code $status, see $log"
fi

# vai_c_xir has failures that exit 0, so the exit code alone proves nothing.
if grep -F '[UNILOG][FATAL]' "$log" >&2; then
    fail 3 "vai_c_xir logged a fatal error, see $log"
fi
compiled=$output/$net_name.xmodel
[ -s "$compiled" ] || fail 3 "vai_c_xir ended well, and yet $compiled does not exist or is empty"
[ -s "$output/md5sum.txt" ] || fail 3 "$output/md5sum.txt is missing"
recorded=$(tr -d '[:space:]' <"$output/md5sum.txt")
actual=$(md5sum <"$compiled")
actual=${actual%% *}
[ "$actual" = "$recorded" ] || fail 3 "md5 of $compiled is $actual, md5sum.txt says $recorded"

counted=$(sed -n 's/.*DPU subgraph number \([0-9][0-9]*\).*/\1/p' "$log" | tail -n 1)
[ -n "$counted" ] || fail 3 "$log does not say how many DPU subgraphs there are"
[ "$counted" -eq "$dpu_subgraphs" ] ||
    fail 3 "$counted DPU subgraphs, the spec demands $dpu_subgraphs: an operator runs on the CPU in between"
built_for=$(sed -n 's/.*Target architecture: \([A-Za-z0-9_]*\).*/\1/p' "$log" | tail -n 1)
[ -z "$built_for" ] || [ "$built_for" = "$target" ] ||
    fail 3 "compiled for $built_for, the board's DPU is $target: it would refuse the fingerprint"

printf 'compile.sh (%s): %s, md5 %s, %s DPU subgraph(s)\n' "$board" "$compiled" "$actual" "$counted"
