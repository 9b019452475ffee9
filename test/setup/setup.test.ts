import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { bundledNode, isModern } from '../../node/modern-node.mjs';
import { isInstalled, namesBackports, parseOsRelease, plan, type Machine } from '../../node/setup-plan.mjs';

const BOOKWORM = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n';
const TRIXIE = 'ID=debian\nVERSION_ID="13"\n';
const UBUNTU = 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n';
const FEDORA = 'ID=fedora\nVERSION_ID=42\n';
const ALPINE = 'ID=alpine\n';

const machine = (osRelease: string, changes: Partial<Machine> = {}): Machine => ({
  platform: 'linux',
  arch: 'x64',
  isRoot: true,
  osRelease,
  hasBackports: false,
  ...changes,
});

describe('which Node runs TypeScript', () => {
  it('draws the line where type stripping needs no flag', () => {
    for (const version of ['22.18.0', '22.20.1', '23.6.0', '24.0.0', '26.1.0']) assert.ok(isModern(version), version);
    for (const version of ['18.20.4', '20.20.2', '22.17.9', '23.5.0']) assert.ok(!isModern(version), version);
  });

  it('finds the one among the packages, or none', () => {
    const path = bundledNode();
    assert.ok(path === null || /node(\.exe)?$/.test(path));
  });
});

describe('what to install', () => {
  it("takes Debian 12's driver from backports, and adds that source only where it is missing", () => {
    const fresh = plan(machine(BOOKWORM), ['vulkan']);
    assert.ok(fresh.kind === 'apt');
    assert.match(fresh.commands[0] ?? '', /bookworm-backports main" > .*skein-backports\.list$/);
    assert.match(fresh.commands.at(-1) ?? '', /install -y -t bookworm-backports mesa-vulkan-drivers libvulkan1$/);
    const again = plan(machine(BOOKWORM, { hasBackports: true }), ['vulkan']);
    assert.ok(again.kind === 'apt');
    assert.deepEqual(again.commands, fresh.commands.slice(1));
  });

  it('takes the plain packages of newer Debian and of Ubuntu', () => {
    for (const release of [TRIXIE, UBUNTU]) {
      const todo = plan(machine(release), ['vulkan']);
      assert.ok(todo.kind === 'apt');
      assert.match(todo.commands.at(-1) ?? '', /install -y mesa-vulkan-drivers libvulkan1$/);
      assert.doesNotMatch(todo.commands.join('\n'), /backports/);
    }
  });

  it('gives anyone but root exactly one line, which a shell takes as one command', () => {
    const todo = plan(machine(BOOKWORM, { isRoot: false }), ['vulkan', 'chromium']);
    assert.ok(todo.kind === 'copy');
    assert.match(todo.line, /^sudo sh -c '[^'\n]*'$/);
    for (const part of ['mesa-vulkan-drivers', 'chromium', 'skein-backports.list']) assert.ok(todo.line.includes(part));
  });

  it('leaves the backports out where only the browser is missing', () => {
    const todo = plan(machine(BOOKWORM), ['chromium']);
    assert.ok(todo.kind === 'apt');
    assert.doesNotMatch(todo.commands.join('\n'), /backports|mesa/);
  });

  it('says what else is needed where apt does not help', () => {
    const fedora = plan(machine(FEDORA), ['vulkan']);
    assert.ok(fedora.kind === 'copy');
    assert.match(fedora.line, /^sudo dnf install -y mesa-vulkan-drivers/);
    const cases: [Machine, RegExp][] = [
      [machine(ALPINE), /glibc/],
      [machine(''), /libvulkan/],
      [machine('', { platform: 'darwin' }), /macOS 13/],
      [machine('', { platform: 'win32' }), /Direct3D 12/],
      [machine('', { platform: 'freebsd' }), /Vulkan/],
    ];
    for (const [where, expected] of cases) {
      const todo = plan(where, ['vulkan']);
      assert.ok(todo.kind === 'advice');
      assert.match(todo.text, expected);
    }
    const snap = plan(machine(UBUNTU), ['chromium']);
    assert.ok(snap.kind === 'advice' && snap.text.includes('SKEIN_CHROMIUM'));
  });

  it('reads os-release and apt sources as they are written', () => {
    assert.deepEqual(parseOsRelease(UBUNTU), { id: 'ubuntu', version: '24.04', family: ['ubuntu', 'debian'] });
    assert.ok(namesBackports('deb http://deb.debian.org/debian bookworm-backports main'));
    assert.ok(namesBackports('Types: deb\nSuites: bookworm bookworm-backports\n'));
    assert.ok(!namesBackports('# deb http://deb.debian.org/debian bookworm-backports main'));
  });
});

describe('whether the packages are those of the lock file', () => {
  const lock = {
    packages: {
      '': {},
      'node_modules/a': { version: '1.0.0' },
      'node_modules/b': { version: '2.0.0', optional: true },
    },
  };
  const having = (packages: Record<string, { version: string }>): boolean => isInstalled(lock, { packages });

  it('wants every package in its version, and optional ones only if they are there', () => {
    assert.ok(having({ 'node_modules/a': { version: '1.0.0' } }));
    assert.ok(!having({ 'node_modules/a': { version: '1.0.1' } }));
    assert.ok(!having({ 'node_modules/b': { version: '2.0.0' } }));
    assert.ok(!having({ 'node_modules/a': { version: '1.0.0' }, 'node_modules/b': { version: '2.0.1' } }));
  });

  it('is false where nothing is installed or there is no lock', () => {
    assert.ok(!isInstalled(lock, null));
    assert.ok(!isInstalled(null, lock));
  });

  it('needs no install script of any package but those that are known to do without', () => {
    const text = readFileSync(new URL('../../package-lock.json', import.meta.url), 'utf8');
    const packages = Object.entries(
      (JSON.parse(text) as { packages: Record<string, { hasInstallScript?: boolean }> }).packages,
    );
    const withScript = packages.filter(([, entry]) => entry.hasInstallScript === true).map(([path]) => path);
    assert.deepEqual(
      withScript.filter((path) => !/node_modules\/(webgpu|fsevents|@swc\/core)$/.test(path)),
      [],
    );
  });
});
