// db[n] += Σ_m dy[m, n]: the gradient of a bias, added to what is there. Every parts-th row is summed by one invocation, four
// columns at a time, and those sums are added up in an order that never changes. Any N: columns beyond it are read from its last.
//
// Grid: 64 invocations a workgroup, for 4 · 64 / parts columns; `parts` divides 64. Workgroups folded into x and y.
// Workgroup memory: 1 KiB.

struct Sizes { M: u32, N: u32, parts: u32 }

@group(0) @binding(0) var<storage, read_write> db: array<f32>; // (N)
@group(0) @binding(1) var<storage, read> dy: array<f32>;       // (M, N)
@group(0) @binding(2) var<uniform> sizes: Sizes;

var<workgroup> shares: array<vec4f, 64>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let lanes = 64 / sizes.parts;
  let part = local / lanes;
  let col = ((group.x + group.y * groups.x) * lanes + local % lanes) * 4;
  let at = min(col + vec4u(0, 1, 2, 3), vec4u(sizes.N - 1));
  var sum = vec4f(0);
  for (var row = part; row < sizes.M; row += sizes.parts) {
    let start = row * sizes.N;
    sum += vec4f(dy[start + at.x], dy[start + at.y], dy[start + at.z], dy[start + at.w]);
  }
  if (sizes.parts > 1) {
    shares[local] = sum;
    workgroupBarrier();
    if (part > 0) { return; }
    for (var p = 1u; p < sizes.parts; p++) { sum += shares[p * lanes + local]; }
  }
  if (col < sizes.N) { db[col] += sum.x; }
  if (col + 1 < sizes.N) { db[col + 1] += sum.y; }
  if (col + 2 < sizes.N) { db[col + 2] += sum.z; }
  if (col + 3 < sizes.N) { db[col + 3] += sum.w; }
}
