// dw += dyᵀ · x: the gradient of a linear layer's weights, (out, in) = (M, N), added to what is there. K is the batch.
//
// Grid: one workgroup per 32 × 32 tile of dw, tiles counted along N first, folded into x and y.
// Each invocation computes 4 × 4 of dw in registers. Workgroup memory: none.

struct Sizes { M: u32, N: u32, K: u32 }

@group(0) @binding(0) var<storage, read_write> dw: array<f32>; // (M, N)
@group(0) @binding(1) var<storage, read> dy: array<f32>;       // (K, M)
@group(0) @binding(2) var<storage, read> x: array<f32>;        // (K, N)
@group(0) @binding(3) var<uniform> sizes: Sizes;

fn add(row: u32, col: u32, v: vec4f) {
  if (row >= sizes.M) { return; }
  let at = row * sizes.N + col;
  dw[at] += v.x;
  if (col + 1 < sizes.N) { dw[at + 1] += v.y; }
  if (col + 2 < sizes.N) { dw[at + 2] += v.z; }
  if (col + 3 < sizes.N) { dw[at + 3] += v.w; }
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
  let rows = min(vec4u(row, row + 1, row + 2, row + 3), vec4u(sizes.M - 1));
  let cols = min(vec4u(col, col + 1, col + 2, col + 3), vec4u(sizes.N - 1));
  var acc0 = vec4f(0);
  var acc1 = vec4f(0);
  var acc2 = vec4f(0);
  var acc3 = vec4f(0);
  for (var k = 0u; k < sizes.K; k++) {
    let dyAt = k * sizes.M + rows;
    let xAt = k * sizes.N + cols;
    let xk = vec4f(x[xAt.x], x[xAt.y], x[xAt.z], x[xAt.w]);
    acc0 += dy[dyAt.x] * xk;
    acc1 += dy[dyAt.y] * xk;
    acc2 += dy[dyAt.z] * xk;
    acc3 += dy[dyAt.w] * xk;
  }
  add(row, col, acc0);
  add(row + 1, col, acc1);
  add(row + 2, col, acc2);
  add(row + 3, col, acc3);
}
