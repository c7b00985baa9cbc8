#!/usr/bin/env bash
# Every number that needs a GPU, in half an hour of a card.
#
#     benchmarks/gpu_session.sh FOLDER [PART ...]
#
# Rows and logs go to FOLDER; a part that fails stops no other. Without parts all run, in the order
# of the list below. DEVICE=cpu QUICK=1 tries the script itself, on a CPU and on small sizes; of the
# training step it only shows the options, since ViT-L/14 at the paper's batch is too much there.
set -u
cd "$(dirname "$0")/.."
folder=${1:?usage: benchmarks/gpu_session.sh FOLDER [PART ...]}
shift
mkdir -p "$folder"
device=${DEVICE:-cuda}
export PYTHONUNBUFFERED=1

# name, seconds at most, command
run() {
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    timeout "$limit" "$@" >"$folder/$name.log" 2>&1
    echo "$name: exit code $?, $((SECONDS - start)) s"
}
bench() {
    local name=$1 limit=$2 benchmark=$3
    shift 3
    run "$name" "$limit" python3 -m benchmarks "$benchmark" --device "$device" \
        --csv "$folder/$benchmark.csv" "$@"
}

if [ -n "${QUICK:-}" ]; then
    max=(--shapes ut-zappos --rounds 1 --implementations "eager max" chunked)
    auto=(--rounds 1) bank=(--case closed --rounds 1)
    text=(--case ut-zappos --quantity time --mode forward) step=(--help)
    files=(--files 4 --batch 1 --steps 1 --warmup 1 --precision float32)
else
    max=(--rounds 25) auto=() bank=()
    text=(--case cgqa --quantity time --rounds 3) step=() files=()
fi

part() {
    case $1 in
        tests) run tests 180 python3 -m pytest -q -m gpu \
            tests/test_patch_max_gpu.py tests/test_prefix_trees.py ;;
        counters)
            run counters 120 ncu --clock-control none --target-processes all -c 12 \
                -k "regex:(forward|token|grad|order)_kernel" \
                --section SpeedOfLight --section MemoryWorkloadAnalysis --section Occupancy \
                --section LaunchStats python3 -m benchmarks patch_max --device cuda \
                --shapes cgqa --rounds 1 --implementations triton --csv "$folder/profiled.csv"
            ;;
        train_files) bench train_files 200 train_files "${files[@]}" ;;
        patch_max) bench patch_max 240 patch_max "${max[@]}" ;;
        patch_max_float32)
            for dtype in float32 TF32; do
                bench "patch_max_$dtype" 120 patch_max --shapes mit-states cgqa "${max[@]}" \
                    --dtype $dtype
            done
            ;;
        patch_max_auto) bench patch_max_auto 60 patch_max_auto "${auto[@]}" ;;
        memory_bank) bench memory_bank 60 memory_bank "${bank[@]}" ;;
        text_tower)
            for chunk in 256 8192; do
                for precision in float32 TF32 bf16; do
                    bench "text_tower_${precision}_$chunk" 90 text_tower "${text[@]}" \
                        --precision $precision --chunk-size $chunk
                done
            done
            ;;
        train_step) bench train_step 400 train_step_gpu "${step[@]}" ;;
        train_step_compiled)
            bench train_step_compiled 180 train_step_gpu --case mit-states \
                --only "ours, bf16, chunk 8192, compiled" "ours, float32, chunk 8192, compiled" "${step[@]}"
            ;;
        *) echo "there is no part $1" ;;
    esac
}
if [ $# -eq 0 ]; then
    set -- tests patch_max patch_max_float32 patch_max_auto counters memory_bank text_tower \
        train_step train_step_compiled train_files
fi
for name in "$@"; do part "$name"; done
