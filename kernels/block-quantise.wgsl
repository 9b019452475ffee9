// Signed integers of BITS (8 or 4) with one scale for each block of 64 values: scale = max |x + e| / top, q = round((x + e) / scale), top =
// 127 or 7; and what was lost stays for the next time (error feedback): e' = x + e - scale · q. Error of a value: scale / 2 at most.
//
// Grid: one invocation per block, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

override BITS: u32 = 8;

// fours: 16, those of a block. A bound that is not known to the compiler is not unrolled, which would take a software driver seconds.
struct Sizes { blocks: u32, fours: u32 }

@group(0) @binding(0) var<storage, read_write> q: array<u32>;     // (blocks, 2 · BITS): values from the low bits up
@group(0) @binding(1) var<storage, read_write> scale: array<f32>; // (blocks)
@group(0) @binding(2) var<storage, read_write> e: array<vec4f>;   // (blocks, 16)
@group(0) @binding(3) var<storage, read> x: array<vec4f>;         // (blocks, 16)
@group(0) @binding(4) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let block = (group.x + group.y * groups.x) * 64 + local;
  if (block >= sizes.blocks) { return; }
  let start = block * sizes.fours;
  var most = vec4f(0);
  for (var i = 0u; i < sizes.fours; i++) { most = max(most, abs(x[start + i] + e[start + i])); }
  let largest = max(max(most.x, most.y), max(most.z, most.w));
  let top = f32((1u << (BITS - 1)) - 1);
  let unit = largest / top;
  let factor = select(0.0, top / largest, largest > 0);
  scale[block] = unit;
  let mask = (1u << BITS) - 1;
  let fours = 8 / BITS; // to a word
  var word = 0u;
  for (var i = 0u; i < sizes.fours; i++) {
    let wanted = x[start + i] + e[start + i];
    let whole = round(wanted * factor);
    e[start + i] = wanted - unit * whole;
    let bits = bitcast<vec4u>(vec4i(whole)) & vec4u(mask);
    let packed = bits.x | (bits.y << BITS) | (bits.z << (2 * BITS)) | (bits.w << (3 * BITS));
    let place = i % fours;
    word |= packed << (place * 4 * BITS);
    if (place + 1 == fours) {
      q[block * 2 * BITS + i / fours] = word;
      word = 0;
    }
  }
}
