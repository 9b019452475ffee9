// y = x · wᵀ + b where K is a multiple of 4: matmul-nt.wgsl with four steps of K at a time.
//
// Grid: one workgroup per 32 × 32 tile of y, tiles counted along N first, folded into x and y.
// Each invocation computes 4 × 4 of y in registers. Workgroup memory: none.

struct Sizes { M: u32, N: u32, K: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (M, N)
@group(0) @binding(1) var<storage, read> x: array<vec4f>;     // (M, K / 4)
@group(0) @binding(2) var<storage, read> w: array<vec4f>;     // (N, K / 4)
@group(0) @binding(3) var<storage, read> b: array<f32>;       // (N)
@group(0) @binding(4) var<uniform> sizes: Sizes;

fn store(row: u32, col: u32, v: vec4f) {
  if (row >= sizes.M) { return; }
  let at = row * sizes.N + col;
  y[at] = v.x;
  if (col + 1 < sizes.N) { y[at + 1] = v.y; }
  if (col + 2 < sizes.N) { y[at + 2] = v.z; }
  if (col + 3 < sizes.N) { y[at + 3] = v.w; }
}

@compute @workgroup_size(8, 8)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let tilesN = (sizes.N + 31) / 32;
  let tile = group.x + group.y * groups.x;
  let row = tile / tilesN * 32 + local.y * 4;
  let col = tile % tilesN * 32 + local.x * 4;
  if (row >= sizes.M || col >= sizes.N) { return; }

  // Rows and columns beyond the edge repeat the last one; their results are not stored.
  let K = sizes.K / 4;
  let rows = min(vec4u(row, row + 1, row + 2, row + 3), vec4u(sizes.M - 1));
  let cols = min(vec4u(col, col + 1, col + 2, col + 3), vec4u(sizes.N - 1));
  let xAt = rows * K;
  let wAt = cols * K;
  let bias = vec4f(b[cols.x], b[cols.y], b[cols.z], b[cols.w]);
  var acc0 = bias;
  var acc1 = bias;
  var acc2 = bias;
  var acc3 = bias;
  for (var k = 0u; k < K; k++) {
    let wk = mat4x4f(w[wAt.x + k], w[wAt.y + k], w[wAt.z + k], w[wAt.w + k]); // column c: 4 of K of column c of y
    acc0 += x[xAt.x + k] * wk;
    acc1 += x[xAt.y + k] * wk;
    acc2 += x[xAt.z + k] * wk;
    acc3 += x[xAt.w + k] * wk;
  }
  store(row, col, acc0);
  store(row + 1, col, acc1);
  store(row + 2, col, acc2);
  store(row + 3, col, acc3);
}
