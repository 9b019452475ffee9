// dw += dyᵀ · x where M and N are multiples of 4: matmul-tn.wgsl with loads of four.
//
// Grid: one workgroup per 32 × 32 tile of dw, tiles counted along N first, folded into x and y.
// Each invocation computes 4 × 4 of dw in registers. Workgroup memory: none.

struct Sizes { M: u32, N: u32, K: u32 }

@group(0) @binding(0) var<storage, read_write> dw: array<vec4f>; // (M, N / 4)
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;       // (K, M / 4)
@group(0) @binding(2) var<storage, read> x: array<vec4f>;        // (K, N / 4)
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(8, 8)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let tilesN = (sizes.N + 31) / 32;
  let tile = group.x + group.y * groups.x;
  let row = tile / tilesN * 8 + local.y;
  let col = tile % tilesN * 8 + local.x;
  let M = sizes.M / 4;
  let N = sizes.N / 4;
  if (row >= M || col >= N) { return; }

  let at = row * 4 * N + col;
  var acc0 = dw[at];
  var acc1 = dw[at + N];
  var acc2 = dw[at + 2 * N];
  var acc3 = dw[at + 3 * N];
  // Two steps at a time: an accumulator that lives across iterations is dear on software drivers.
  var k = 0u;
  for (; k + 1 < sizes.K; k += 2) {
    let dy0 = dy[k * M + row];
    let x0 = x[k * N + col];
    let dy1 = dy[(k + 1) * M + row];
    let x1 = x[(k + 1) * N + col];
    acc0 += dy0.x * x0 + dy1.x * x1;
    acc1 += dy0.y * x0 + dy1.y * x1;
    acc2 += dy0.z * x0 + dy1.z * x1;
    acc3 += dy0.w * x0 + dy1.w * x1;
  }
  if (k < sizes.K) {
    let dy0 = dy[k * M + row];
    let x0 = x[k * N + col];
    acc0 += dy0.x * x0;
    acc1 += dy0.y * x0;
    acc2 += dy0.z * x0;
    acc3 += dy0.w * x0;
  }
  dw[at] = acc0;
  dw[at + N] = acc1;
  dw[at + 2 * N] = acc2;
  dw[at + 3 * N] = acc3;
}
