// y = x · wᵀ, one element per invocation, nothing clever: the floor that the product's kernels are compared with.
// Grid: one invocation per element of y, 64 a workgroup.

struct Sizes { M: u32, N: u32, K: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (M, N)
@group(0) @binding(1) var<storage, read> x: array<f32>;       // (M, K)
@group(0) @binding(2) var<storage, read> w: array<f32>;       // (N, K)
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x / sizes.N;
  let col = id.x % sizes.N;
  if (row >= sizes.M) { return; }
  var sum = 0f;
  for (var k = 0u; k < sizes.K; k++) { sum += x[row * sizes.K + k] * w[col * sizes.K + k]; }
  y[id.x] = sum;
}
