#!/usr/bin/env bash
# run.sh - on a machine with an NVIDIA GPU: builds david for its card, checks it, times it, and times the same networks
# in PyTorch.
#
#   tests/gpu/run.sh [build|check|bench|torch]... [--again] [--debs DIR] [--fake BUILD] [--budget S]
#
# Without a stage: all four. A stage consists of steps; finished steps are recorded in build/gpu-work and not repeated
# while the sources are the same. A stage stops within its budget (560 s) and exits with 75: run it again to continue. A
# failed step does not stop the others; then the exit is 1. Needs CUDA's nvcc, cuDNN, CMake, a C compiler and, for
# `torch`, a python3 with torch. Logs, results and the table go to $OUT (build/gpu).
#   --again    repeats everything
#   --debs     unpacked Debian packages (libjansson-dev, libssl-dev, libjpeg62-turbo-dev, libcmocka-dev, libcmocka0),
#              where the system has none
#   --fake     no GPU: a build of david whose fake device is used, with tiny networks, to test this script
set -uo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=${OUT:-$top/build/gpu}
work=$top/build/gpu-work
stages=() again='' debs='' fake='' budget=560
while [ $# -gt 0 ]; do
    case $1 in
    build | check | bench | torch) stages+=("$1") ;;
    --again) again=1 ;;
    --debs) debs=$(cd "${2:?--debs needs a folder}" && pwd) && shift ;;
    --fake) fake=$(cd "${2:?--fake needs a build folder}" && pwd) && shift ;;
    --budget) budget=${2:?--budget needs seconds} && shift ;;
    -h | --help)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        echo "unknown argument '$1'; see --help" >&2
        exit 2
        ;;
    esac
    shift
done
[ ${#stages[@]} -gt 0 ] || stages=(build check bench torch)
[ -z "$fake" ] || work=$fake/gpu-dry-run
python=$(command -v python3 || true)

# ---- finished steps ----
sources=$(cd "$top" && find CMakeLists.txt proto engine tests/CMakeLists.txt tests/{bench,cuda,engine,golden,gpu,reference} -type f -not -path '*/__pycache__/*' -print0 |
    LC_ALL=C sort -z | xargs -0 cat | cksum)
if [ -n "$again" ] || [ "$(cat "$work/sources" 2>/dev/null)" != "$sources" ]; then
    rm -rf "$work/state" "$work/results" "$work/logs"
fi
mkdir -p "$work/state" "$work/results" "$work/logs" "$out"
echo "$sources" >"$work/sources"

status=0 started=$SECONDS
finish() {
    cp "$work"/results/*.json "$out/" 2>/dev/null
    (cd "$work" && for stage in build check bench torch; do
        cat logs/"$stage".*.log >"$out/$stage.log" 2>/dev/null
    done && cat results/*.jsonl >"$out/results.jsonl" 2>/dev/null)
    if [ -n "$python" ]; then "$python" "$top/tests/gpu/report.py" "$work" | tee "$out/table.md"; fi
    exit "$status"
}
trap 'status=130; finish' INT TERM

# step STAGE.NAME LEAST MOST COMMAND...: runs if LEAST seconds of the budget are left, for at most MOST. Its output goes
# to its log, lines of JSON to the results.
step() {
    local name=$1 least=$2 most_s=$3 left=$((budget - (SECONDS - started))) from=$SECONDS code limit
    shift 3
    if [ -e "$work/state/$name.step" ] && ! grep -q FAILED "$work/state/$name.step"; then return 0; fi
    if [ "$left" -lt "$least" ]; then
        echo "== $name: $left s are left, it may need $least: run again" >&2
        [ "$status" -ne 0 ] || status=75
        return 0
    fi
    limit=$((left < most_s ? left : most_s))
    echo "== $name" >&2
    timeout -k 10 "$limit" "$@" >"$work/results/$name.part" 2>"$work/logs/$name.log" </dev/null
    code=$?
    cat "$work/results/$name.part" >>"$work/logs/$name.log"
    grep '^{"what"\|^{"arch"' "$work/results/$name.part" >"$work/results/$name.jsonl"
    rm -f "$work/results/$name.part"
    [ -s "$work/results/$name.jsonl" ] || rm -f "$work/results/$name.jsonl"
    case $code in
    0) echo "ok $((SECONDS - from))" >"$work/state/$name.step" ;;
    77) echo "skipped $((SECONDS - from))" >"$work/state/$name.step" ;;
    124 | 137)
        if [ "$limit" -lt "$most_s" ]; then # a later call may have enough time
            echo "== $name: cut off after $limit s: run again" >&2
            [ "$status" -ne 0 ] || status=75
            return 0
        fi
        ;;&
    *)
        echo "FAILED($code) $((SECONDS - from))" >"$work/state/$name.step"
        tail -n 15 "$work/logs/$name.log" >&2
        status=1
        ;;
    esac
}

# ---- paths ----
build=$work/build
plugin=$build/libdavid_cuda.so
small='{"image_size":32,"num_channels":32,"num_res_blocks":1,"channel_mult":"1,2","attention_resolutions":"16","num_heads":1,"learn_sigma":true,"use_scale_shift_norm":true,"resblock_updown":true}'
# Every option beyond the published networks (engine/README.md section 9).
cells='{"image_size":32,"num_channels":32,"num_res_blocks":1,"channel_mult":"1,2","attention_resolutions":"16","num_heads":1,"learn_sigma":true,"resblock_updown":true,"class_cond":true,"num_classes":5,"patch":2,"noise":"channels","output":"linear","sigma_cond":true,"level_cond":true,"middle_attention":false}'
networks=(ffhq256 imagenet256) batches=1,8,32 most=32 quick=() peak_options=() params=()
if [ -n "$fake" ]; then
    build=$fake plugin=$fake/tests/cuda/fake/cpu/libdavid_cuda.so
    networks=("$small") batches=1,3 most=3 quick=(--runs 2 --repeats 1) peak_options=(--side 64 --copy-mib 2)
    params=(DAVID_TEST_MAX_PARAMS=2000000)
fi
export DAVID_TEST_BACKEND=cuda DAVID_TEST_PLUGIN=$plugin OMP_WAIT_POLICY=PASSIVE DAVID_GOLDEN=$top/tests/golden

# Libraries of Python's packages: cuDNN and NVRTC may only be there.
wheels=()
if [ -n "$python" ] && [ -z "$fake" ]; then
    mapfile -t wheels < <("$python" -c 'import glob, os, nvidia
for base in nvidia.__path__:
    for lib in sorted(glob.glob(os.path.join(base, "*", "lib"))): print(os.path.dirname(lib))' 2>/dev/null)
    for folder in "${wheels[@]}"; do LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder/lib; done
    export LD_LIBRARY_PATH
fi

run_build() {
    local options=(-DDAVID_ENGINE_ONLY=ON -DDAVID_CUDA=ON -DCMAKE_BUILD_TYPE=Release) capability folder
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
    [ -z "$capability" ] || options+=("-DDAVID_CUDA_ARCHITECTURES=$capability")
    [ -z "$debs" ] || options+=("-DDAVID_DEBS=$debs")
    for folder in "${wheels[@]}"; do
        if [ -e "$folder/include/cudnn.h" ] && [ ! -e /usr/include/cudnn.h ]; then options+=("-DCUDNN_ROOT=$folder"); fi
    done
    if [ ! -e "$build/CMakeCache.txt" ] && command -v ninja >/dev/null; then options+=(-G Ninja); fi
    step build.card 5 60 sh -c 'command -v nvidia-smi >/dev/null || { echo "no nvidia-smi"; exit 77; }; nvidia-smi'
    step build.configure 30 120 cmake -S "$top" -B "$build" "${options[@]}"
    step build.compile 60 540 cmake --build "$build" -j "$(nproc)" --target david_cuda backend_ops backend_sampler backend_networks \
        unet_golden_cpu test_davi_golden forecast gpu_bench one_result deviceprop
}

run_check() {
    local tests=$build/tests/engine tool dtype sanitizer cells_once
    # Its times have no meaning and do not go to the results.
    cells_once=("$build/tests/gpu/gpu_bench" network --arch "$cells" --batch '1,2' --runs 1 --repeats 1)
    step check.ops 60 300 "$tests/backend_ops"
    step check.sampler 20 120 "$tests/backend_sampler"
    step check.networks 60 300 "$tests/backend_networks"
    for dtype in F32 BF16 F16; do
        step "check.golden_$dtype" 90 540 env "${params[@]}" "DAVID_TEST_DTYPE=$dtype" "$tests/unet_golden_cpu"
    done
    step check.restorations 60 300 "$tests/test_davi_golden"
    for dtype in bf16 f16 f32; do
        step "check.one_result_$dtype" 90 540 "$build/tests/gpu/one_result" --arch "${networks[0]}" --batch "$most" --dtype "$dtype"
    done
    step check.one_result_cells 60 300 "$build/tests/gpu/one_result" --arch "$cells" --batch "$most" --dtype bf16
    step check.cells 60 300 sh -c '"$@" >/dev/null' sh "${cells_once[@]}"
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ -n "$fake" ]; then
        sanitizer='' # it has nothing to check
    elif [ -z "$sanitizer" ]; then
        step check.sanitizer 1 10 sh -c 'echo "no compute-sanitizer"; exit 77'
    fi
    for tool in ${sanitizer:+memcheck racecheck initcheck synccheck}; do
        step "check.$tool" 60 300 "$sanitizer" --tool "$tool" --error-exitcode 9 "$build/tests/gpu/gpu_bench" network --arch "$small" \
            --batch 1,2 --runs 1 --repeats 1
        step "check.cells_$tool" 60 300 sh -c '"$@" >/dev/null' sh "$sanitizer" --tool "$tool" --error-exitcode 9 "${cells_once[@]}"
    done
}

measured() { # the card's own rates for the forecast, if they were measured
    sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$work/results/bench.peak.jsonl" 2>/dev/null | head -n 1
}

run_bench() {
    local i=0 network tflops tbytes
    step bench.peak 20 120 "$build/tests/gpu/gpu_bench" peak "${peak_options[@]}"
    if [ -z "$fake" ]; then
        step bench.deviceprop 10 60 sh -c "'$build/tests/gpu/deviceprop' >'$work/results/deviceprop.json'"
    fi
    for network in "${networks[@]}"; do
        step "bench.network_$i" 120 540 "$build/tests/gpu/gpu_bench" network --arch "$network" --batch "$batches" "${quick[@]}"
        tflops=$(measured tflops) tbytes=$(measured tbytes)
        step "bench.forecast_$i" 10 60 "$build/tests/gpu/forecast" --arch "$network" --batch "$batches" --json \
            --tflops "${tflops:-798}" --tbytes "${tbytes:-3.0}"
        i=$((i + 1))
    done
}

run_torch() {
    local network dtype batch program=("$python" "$top/tests/gpu/torch_bench.py")
    if ! "$python" -c 'import torch' 2>/dev/null; then
        step torch.all 1 10 sh -c 'echo "no torch in python3"; exit 77'
        return 0
    fi
    if [ -n "$fake" ]; then
        step torch.small 20 120 "${program[@]}" network --device cpu --size 64 --batch 1 --runs 1 --arch ffhq256
        return 0
    fi
    export TORCHINDUCTOR_CACHE_DIR=$work/inductor
    step torch.peak 20 120 "${program[@]}" peak
    for network in "${networks[@]}"; do
        for dtype in bf16 f16; do
            for batch in 32 8 1; do
                step "torch.${network}_${dtype}_${batch}_eager" 45 180 "${program[@]}" network --arch "$network" --batch "$batch" --dtype "$dtype"
            done
        done
    done
    for dtype in bf16 f16; do
        for network in "${networks[@]}"; do
            for batch in 32 8 1; do
                step "torch.${network}_${dtype}_${batch}_compile" 120 540 "${program[@]}" network --compile --arch "$network" --batch "$batch" \
                    --dtype "$dtype"
            done
        done
    done
}

for stage in "${stages[@]}"; do
    started=$SECONDS
    case $stage in
    build) [ -n "$fake" ] || run_build ;;
    check) run_check ;;
    bench) run_bench ;;
    torch) run_torch ;;
    esac
done
finish
