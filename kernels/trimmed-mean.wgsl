// y[i] = mean of the middle of parts[0, i] … parts[n - 1, i] in ascending order, `trim` of them left out at either end (Yin et al. 2018,
// coordinate-wise trimmed mean): the mean for trim = 0, the median for the largest trim. n is at most 16.
//
// Grid: 64 invocations a workgroup, one per coordinate, workgroups folded into x and y. Workgroup memory: none.

struct Sizes { count: u32, parts: u32, stride: u32, trim: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (count)
@group(0) @binding(1) var<storage, read> parts: array<f32>;   // (parts, stride)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.x + group.y * groups.x) * 64 + local;
  if (i >= sizes.count) { return; }
  var v: array<f32, 16>;
  for (var p = 0u; p < sizes.parts; p++) { v[p] = parts[p * sizes.stride + i]; }
  // Odd-even transposition: n rounds of neighbours that change places sort n values.
  for (var round = 0u; round < sizes.parts; round++) {
    for (var p = round % 2; p + 1 < sizes.parts; p += 2) {
      let low = min(v[p], v[p + 1]);
      v[p + 1] = max(v[p], v[p + 1]);
      v[p] = low;
    }
  }
  var sum = 0.0;
  for (var p = sizes.trim; p < sizes.parts - sizes.trim; p++) { sum += v[p]; }
  y[i] = sum / f32(sizes.parts - 2 * sizes.trim);
}
