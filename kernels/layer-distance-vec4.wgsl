// layer-distance.wgsl where every item begins at a multiple of 4 in a and in b: loads of four. What lies beyond an item's end within its last
// four is read and not counted.
//
// Grid: one workgroup of 64 per item, folded into x and y. Workgroup memory: 768 bytes.

struct Sizes { items: u32 }

@group(0) @binding(0) var<storage, read_write> sums: array<vec4u>; // (items)
@group(0) @binding(1) var<storage, read> a: array<vec4u>;          // the bits of f32
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read> items: array<vec4u>;      // (items): begin in a, begin in b, elements, unused
@group(0) @binding(4) var<uniform> sizes: Sizes;

var<workgroup> shares: array<vec2f, 64>;
var<workgroup> largest: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let number = group.x + group.y * groups.x;
  if (number >= sizes.items) { return; }
  let item = items[number];
  var distance = vec4f(0);
  var square = vec4f(0);
  var most = vec4u(0);
  for (var i = local; i * 4 < item.z; i += 64) {
    let isIn = i * 4 + vec4u(0, 1, 2, 3) < vec4u(item.z);
    let bits = select(vec4u(0), a[item.x / 4 + i], isIn);
    let x = bitcast<vec4f>(bits);
    let d = select(vec4f(0), x - b[item.y / 4 + i], isIn);
    distance += d * d;
    square += x * x;
    most = max(most, bits & vec4u(0x7f800000));
  }
  let four = vec4f(1);
  shares[local] = vec2f(dot(distance, four), dot(square, four));
  largest[local] = max(max(most.x, most.y), max(most.z, most.w));
  workgroupBarrier();
  if (local > 0) { return; }
  var sum = vec2f(0);
  var top = 0u;
  for (var i = 0; i < 64; i++) {
    sum += shares[i];
    top = max(top, largest[i]);
  }
  sums[number] = vec4u(bitcast<vec2u>(sum), select(0u, 1u, top == 0x7f800000u), 0u);
}
