// Rotary positions (Su et al. 2021) in place, pairs (i, i + D/2) as Hugging Face's rotate_half has them:
//   x[i] = x[i] cos - x[i + D/2] sin,  x[i + D/2] = x[i + D/2] cos + x[i] sin
// with the cosine and sine of position start + row mod T. direction -1 rotates back, which is the gradient.
//
// Grid: `split` workgroups of 32 per row, each of which takes every split-th head, folded into x and y.
// Workgroup memory: none.

struct Sizes {
  rows: u32, T: u32, heads: u32, D: u32, stride: u32, offset: u32, start: u32, split: u32, direction: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;  // (rows, stride), heads · D of them from offset
@group(0) @binding(1) var<storage, read> cosSin: array<vec2f>; // (start + T or more, D / 2)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let number = group.x + group.y * groups.x;
  let row = number / sizes.split;
  if (row >= sizes.rows) { return; }
  let half = sizes.D / 2;
  let position = (sizes.start + row % sizes.T) * half;
  for (var head = number % sizes.split; head < sizes.heads; head += sizes.split) {
    let at = row * sizes.stride + sizes.offset + head * sizes.D;
    for (var i = local; i < half; i += 32) {
      let turn = vec2f(1, sizes.direction) * cosSin[position + i];
      let first = x[at + i];
      let second = x[at + half + i];
      x[at + i] = first * turn.x - second * turn.y;
      x[at + half + i] = second * turn.x + first * turn.y;
    }
  }
}
