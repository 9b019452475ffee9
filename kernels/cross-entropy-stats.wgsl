// One window of the logits, classes [first, first + W), goes into what is known of each row so far: stats = the largest logit, the
// sum of exp(logit - largest), the target's logit, and the first class that has the largest logit (exact below 2²⁴). The first
// window starts the row; the order of the windows is that of the classes.
// Logits are read in fours whatever W is: the fours at a row's ends are shared with its neighbours and masked.
//
// Grid: one workgroup of 128 per row, folded into x and y. Workgroup memory: 2 KiB.

struct Sizes { M: u32, W: u32, first: u32, isFirst: u32 }

@group(0) @binding(0) var<storage, read_write> stats: array<vec4f>; // (M)
@group(0) @binding(1) var<storage, read> logits: array<vec4f>;      // (M, W), padded to fours
@group(0) @binding(2) var<storage, read> targets: array<i32>;       // (M)
@group(0) @binding(3) var<uniform> sizes: Sizes;

const LOWEST = -3.4028234e38;

var<workgroup> shares: array<vec4f, 128>; // largest, sum, nothing, class

// Two sets of classes as one; of equal logits the lower class wins.
fn merged(a: vec4f, b: vec4f) -> vec4f {
  let largest = max(a.x, b.x);
  let isLater = b.x > a.x || (b.x == a.x && b.w < a.w);
  return vec4f(largest, a.y * exp(a.x - largest) + b.y * exp(b.x - largest), a.z, select(a.w, b.w, isLater));
}

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= sizes.M) { return; }
  let begin = row * sizes.W;
  let end = begin + sizes.W;

  // Per component the largest logit and the first four that has it.
  var largest = vec4f(LOWEST);
  var best = vec4u(begin / 4 + local);
  for (var i = begin / 4 + local; i * 4 < end; i += 128) {
    var v = logits[i];
    if (i * 4 < begin || i * 4 + 4 > end) {
      let at = i * 4 + vec4u(0, 1, 2, 3);
      v = select(vec4f(LOWEST), v, (at >= vec4u(begin)) & (at < vec4u(end)));
    }
    best = select(best, vec4u(i), v > largest);
    largest = max(largest, v);
  }
  let top = max(max(largest.x, largest.y), max(largest.z, largest.w));
  var sum = vec4f(0);
  for (var i = begin / 4 + local; i * 4 < end; i += 128) {
    var e = exp(logits[i] - top);
    if (i * 4 < begin || i * 4 + 4 > end) {
      let at = i * 4 + vec4u(0, 1, 2, 3);
      e = select(vec4f(0), e, (at >= vec4u(begin)) & (at < vec4u(end)));
    }
    sum += e;
  }
  // Of the components that have the largest logit the lowest class.
  let places = select(vec4u(0xffffffff), best * 4 + vec4u(0, 1, 2, 3), largest == vec4f(top));
  let place = min(min(places.x, places.y), min(places.z, places.w));
  shares[local] = vec4f(top, sum.x + sum.y + sum.z + sum.w, 0, f32(place - begin + sizes.first));
  workgroupBarrier();
  if (local > 0) { return; }

  var all = shares[0];
  for (var k = 1u; k < 128; k++) { all = merged(all, shares[k]); }
  if (sizes.isFirst == 0) { all = merged(stats[row], all); }
  let goal = u32(targets[row]) - sizes.first; // huge where the target is below first or ignored
  if (goal < sizes.W) { all.z = logits[(begin + goal) / 4][(begin + goal) % 4]; }
  stats[row] = all;
}
