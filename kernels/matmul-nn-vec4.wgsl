// dx = dy · w where N and K are multiples of 4: matmul-nn.wgsl with four steps of K at a time.
//
// Grid: one workgroup per 32 × 32 tile of dx, tiles counted along N first, folded into x and y.
// Each invocation computes 4 × 4 of dx in registers. Workgroup memory: none.

struct Sizes { M: u32, N: u32, K: u32 }

@group(0) @binding(0) var<storage, read_write> dx: array<vec4f>; // (M, N / 4)
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;       // (M, K / 4)
@group(0) @binding(2) var<storage, read> w: array<vec4f>;        // (K, N / 4)
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(8, 8)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let tilesN = (sizes.N + 31) / 32;
  let tile = group.x + group.y * groups.x;
  let row = tile / tilesN * 32 + local.y * 4;
  let col = tile % tilesN * 8 + local.x;
  let N = sizes.N / 4;
  if (row >= sizes.M || col >= N) { return; }

  // Rows beyond the edge repeat the last one; their results are not stored.
  let K = sizes.K / 4;
  let dyAt = min(vec4u(row, row + 1, row + 2, row + 3), vec4u(sizes.M - 1)) * K;
  var acc0 = vec4f(0);
  var acc1 = vec4f(0);
  var acc2 = vec4f(0);
  var acc3 = vec4f(0);
  for (var k = 0u; k < K; k++) {
    let wAt = k * 4 * N + col;
    let wk = mat4x4f(w[wAt], w[wAt + N], w[wAt + 2 * N], w[wAt + 3 * N]); // column i: row 4 k + i of w
    acc0 += wk * dy[dyAt.x + k];
    acc1 += wk * dy[dyAt.y + k];
    acc2 += wk * dy[dyAt.z + k];
    acc3 += wk * dy[dyAt.w + k];
  }
  let at = row * N + col;
  dx[at] = acc0;
  if (row + 1 < sizes.M) { dx[at + N] = acc1; }
  if (row + 2 < sizes.M) { dx[at + 2 * N] = acc2; }
  if (row + 3 < sizes.M) { dx[at + 3 * N] = acc3; }
}
