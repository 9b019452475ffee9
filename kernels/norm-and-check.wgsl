// partial[j] = Σ x² over the fours i with i ≡ j mod lanes: `lanes` partial sums, which the reader adds up in double precision;
// and flag = 1 where any x is NaN or infinite, by its bits (see finite-check.wgsl). One pass over the gradients serves both.
//
// Grid: one invocation per partial sum, 64 a workgroup. Workgroup memory: none.

struct Sizes { count: u32, lanes: u32 }

@group(0) @binding(0) var<storage, read_write> partial: array<f32>;      // (lanes)
@group(0) @binding(1) var<storage, read_write> flag: array<atomic<u32>>; // (1)
@group(0) @binding(2) var<storage, read> x: array<vec4f>;                // (count), padded to fours
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= sizes.lanes) { return; }
  var sum = vec4f(0);
  var largest = vec4u(0);
  for (var i = id.x; i * 4 < sizes.count; i += sizes.lanes) {
    var v = x[i];
    if (i * 4 + 4 > sizes.count) { v = select(vec4f(0), v, i * 4 + vec4u(0, 1, 2, 3) < vec4u(sizes.count)); }
    sum += v * v;
    largest = max(largest, bitcast<vec4u>(v) & vec4u(0x7f800000));
  }
  partial[id.x] = sum.x + sum.y + sum.z + sum.w;
  if (any(largest == vec4u(0x7f800000))) { atomicStore(&flag[0], 1u); }
}
