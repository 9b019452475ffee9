// dwParts[p, n, k] = Σ dz[m, n] · (the k-th tap of the m-th window of x) and dbParts[p, n] = Σ dz[m, n] over the p-th `span` windows:
// partial sums, which bias-backward.wgsl adds to dw and db in an order that never changes. Taps are read as unfold.wgsl reads them,
// and the bias is the weight of one tap more, which sees 1.
//
// Grid: 64 invocations a workgroup, one for 8 columns of dz × 4 taps of one part, those of one part after those of another, folded
// into x and y. Workgroup memory: none.

struct Sizes {
  M: u32, N: u32, K: u32, span: u32,
  height: u32, width: u32, channel: u32, pixel: u32, sample: u32,
  size: u32, stride: u32, padding: u32,
  outHeight: u32, outWidth: u32,
}

@group(0) @binding(0) var<storage, read_write> dwParts: array<f32>; // (⌈M / span⌉, N, K)
@group(0) @binding(1) var<storage, read_write> dbParts: array<f32>; // (⌈M / span⌉, N)
@group(0) @binding(2) var<storage, read> dz: array<f32>;            // (M, N), M = B · outHeight · outWidth
@group(0) @binding(3) var<storage, read> x: array<f32>;             // (B, C, height, width) or (B, height, width, C)
@group(0) @binding(4) var<uniform> sizes: Sizes;

// Of tap k, or of the last: its row and column in a window, and how far it lies from the window's corner.
fn tapOf(number: u32) -> vec3u {
  let k = min(number, sizes.K - 1);
  let i = k / sizes.size % sizes.size;
  let j = k % sizes.size;
  return vec3u(i, j, k / (sizes.size * sizes.size) * sizes.channel + (i * sizes.width + j) * sizes.pixel);
}

fn valueAt(corner: vec3u, tap: vec3u) -> f32 {
  let isInside = corner.x + tap.x < sizes.height && corner.y + tap.y < sizes.width;
  return select(0.0, x[select(0, corner.z + tap.z, isInside)], isInside);
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let id = (group.x + group.y * groups.x) * 64 + local;
  let acrossK = (sizes.K + 4) / 4; // with the bias's
  let acrossN = (sizes.N + 7) / 8;
  let part = id / (acrossK * acrossN);
  let n = id / acrossK % acrossN * 8;
  let k = id % acrossK * 4;
  let begin = part * sizes.span;
  if (begin >= sizes.M) { return; }
  let end = min(begin + sizes.span, sizes.M);

  let tap0 = tapOf(k);
  let tap1 = tapOf(k + 1);
  let tap2 = tapOf(k + 2);
  let tap3 = tapOf(k + 3);
  let isBias = k + vec4u(0, 1, 2, 3) == vec4u(sizes.K);
  let low = min(n + vec4u(0, 1, 2, 3), vec4u(sizes.N - 1));
  let high = min(n + vec4u(4, 5, 6, 7), vec4u(sizes.N - 1));
  let pixels = sizes.outHeight * sizes.outWidth;
  var s0 = vec4f(0);
  var s1 = vec4f(0);
  var s2 = vec4f(0);
  var s3 = vec4f(0);
  var s4 = vec4f(0);
  var s5 = vec4f(0);
  var s6 = vec4f(0);
  var s7 = vec4f(0);
  for (var m = begin; m < end; m++) {
    // Above and left of the image these wrap round, and then are no row and no column of it either.
    let top = m % pixels / sizes.outWidth * sizes.stride - sizes.padding;
    let left = m % sizes.outWidth * sizes.stride - sizes.padding;
    let corner = vec3u(top, left, m / pixels * sizes.sample + (top * sizes.width + left) * sizes.pixel);
    let seen = vec4f(valueAt(corner, tap0), valueAt(corner, tap1), valueAt(corner, tap2), valueAt(corner, tap3));
    let taps = select(seen, vec4f(1), isBias);
    let at = m * sizes.N;
    s0 += dz[at + low.x] * taps;
    s1 += dz[at + low.y] * taps;
    s2 += dz[at + low.z] * taps;
    s3 += dz[at + low.w] * taps;
    s4 += dz[at + high.x] * taps;
    s5 += dz[at + high.y] * taps;
    s6 += dz[at + high.z] * taps;
    s7 += dz[at + high.w] * taps;
  }
  // Through an array, so that the way to memory is in the text once.
  var sums = array<vec4f, 8>(s0, s1, s2, s3, s4, s5, s6, s7);
  for (var i = 0u; i < min(8, sizes.N - n); i++) {
    let row = part * sizes.N + n + i;
    for (var j = 0u; j < min(4, sizes.K - k); j++) { dwParts[row * sizes.K + k + j] = sums[i][j]; }
    if (k + 4 > sizes.K) { dbParts[row] = sums[i][sizes.K - k]; }
  }
}
