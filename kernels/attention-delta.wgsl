// delta[b, h, t] = Σ_d dy[b, t, h, d] · y[b, t, h, d]: what softmax's gradient subtracts from every slope of a row of scores.
//
// Grid: one invocation per row of a head, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

struct Sizes {
  B: u32, T: u32, H: u32, G: u32, D: u32,
  qStride: u32, kStride: u32, vStride: u32, qOffset: u32, kOffset: u32, vOffset: u32,
  scale: f32, seed: u32, threshold: u32, gain: f32,
}

@group(0) @binding(0) var<storage, read_write> delta: array<f32>; // (B, H, T)
@group(0) @binding(1) var<storage, read> dy: array<f32>;          // (B, T, H, D)
@group(0) @binding(2) var<storage, read> y: array<f32>;           // (B, T, H, D)
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let at = (group.x + group.y * groups.x) * 64 + local;
  if (at >= sizes.B * sizes.H * sizes.T) { return; }
  let t = at % sizes.T;
  let headRow = at / sizes.T; // b · H + h
  let start = ((headRow / sizes.H * sizes.T + t) * sizes.H + headRow % sizes.H) * sizes.D;
  var sum = 0.0;
  for (var d = 0u; d < sizes.D; d++) { sum += dy[start + d] * y[start + d]; }
  delta[at] = sum;
}
