// One window of the logits, classes [first, first + W), becomes the gradient of scale · Σ loss, in place:
//   dlogits = scale · (exp(logit - largest) / sum - [class = target]), 0 in rows with target -100.
// Logits are read and written in fours whatever W is: a four that reaches into the next rows belongs to the row it begins in.
//
// Grid: `blocks` workgroups of 128 per row, 4 fours an invocation, the blocks of a row next to each other, folded into x and y.
// Workgroup memory: none.

struct Sizes { M: u32, W: u32, first: u32, blocks: u32, scale: f32 }

@group(0) @binding(0) var<storage, read_write> logits: array<vec4f>; // (M, W), padded to fours
@group(0) @binding(1) var<storage, read> stats: array<vec4f>;        // (M): largest, sum, target's logit, class
@group(0) @binding(2) var<storage, read> targets: array<i32>;        // (M)
@group(0) @binding(3) var<uniform> sizes: Sizes;

fn gradient(logit: vec4f, class4: vec4u, row: u32) -> vec4f {
  let known = stats[row];
  let factor = select(sizes.scale, 0.0, targets[row] < 0);
  let p = exp(min(logit - known.x, vec4f(0))) / known.y;
  return factor * (p - select(vec4f(0), vec4f(1), class4 == vec4u(u32(targets[row]))));
}

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let number = group.x + group.y * groups.x;
  let row = number / sizes.blocks;
  if (row >= sizes.M) { return; }
  let begin = row * sizes.W;
  let end = begin + sizes.W;
  let start = (begin + 3) / 4 + number % sizes.blocks * 512 + local;
  for (var k = 0u; k < 4; k++) {
    let i = start + k * 128;
    if (i * 4 >= end) { return; }
    let v = logits[i];
    let col = i * 4 - begin + vec4u(0, 1, 2, 3);
    var d = gradient(v, sizes.first + col, row);
    if (i * 4 + 4 > end) {
      for (var next = row + 1; next < row + 4; next++) {
        // Narrow windows put several rows into one four. Beyond the last row everything stays.
        let inNext = i * 4 + vec4u(0, 1, 2, 3) - next * sizes.W;
        let isThere = i * 4 + vec4u(0, 1, 2, 3) >= vec4u(next * sizes.W);
        var value = v;
        if (next < sizes.M) { value = gradient(v, sizes.first + inNext, next); }
        d = select(d, value, isThere);
      }
    }
    logits[i] = d;
  }
}
