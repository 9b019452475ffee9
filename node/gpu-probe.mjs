// Does WebGPU compute here? Doubles one number on the GPU and reads it back; prints one JSON line and exits 0 or 1.
// A process of its own: drivers write to stderr, and a broken one may crash.
import process from 'node:process';

const WGSL = `
@group(0) @binding(0) var<storage, read_write> value: array<u32>;
@compute @workgroup_size(1) fn main() { value[0] = value[0] * 2u; }`;

/** @returns {Promise<{ ok: boolean, device: string, reason: string }>} */
async function probe() {
  const { create, globals } = await import('webgpu');
  Object.assign(globalThis, globals);
  const gpu = create([]);
  Object.assign(globalThis, { gpu }); // Dawn crashes when this object is collected, so it is held to the end
  const adapter = await gpu.requestAdapter();
  if (adapter === null) return { ok: false, device: '', reason: 'no adapter' };
  const device = await adapter.requestDevice();
  const storage = device.createBuffer({ size: 4, usage: 0x80 | 0x8 | 0x4 }); // STORAGE | COPY_DST | COPY_SRC
  const staging = device.createBuffer({ size: 4, usage: 0x8 | 0x1 }); // COPY_DST | MAP_READ
  const pipeline = await device.createComputePipelineAsync({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code: WGSL }) },
  });
  device.queue.writeBuffer(storage, 0, new Uint32Array([21]));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  const entries = [{ binding: 0, resource: { buffer: storage } }];
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(storage, 0, staging, 0, 4);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(1); // READ
  const result = new Uint32Array(staging.getMappedRange())[0];
  const { description, device: name, vendor } = adapter.info;
  const ok = result === 42;
  return { ok, device: description || name || vendor, reason: ok ? '' : `2 · 21 came out as ${result}` };
}

const answer = await probe().catch((/** @type {unknown} */ error) => ({
  ok: false,
  device: '',
  reason: error instanceof Error ? error.message : String(error),
}));
process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(answer.ok ? 0 : 1));
