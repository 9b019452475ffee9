// What a machine needs before Skein runs on it, as pure functions: no file is read and nothing is started here.

/**
 * @typedef {object} Machine
 * @property {string} platform as in process.platform
 * @property {string} arch as in process.arch
 * @property {boolean} isRoot
 * @property {string} osRelease text of /etc/os-release, '' where there is none
 * @property {boolean} hasBackports whether apt knows bookworm-backports
 */
/** @typedef {'vulkan' | 'chromium'} Need */
/**
 * @typedef {{ kind: 'apt', commands: string[] } | { kind: 'copy', line: string } | { kind: 'advice', text: string }} Plan
 * `apt`: shell commands to run now; `copy`: one line for a person to run; `advice`: nothing that a command could do.
 */

export const BACKPORTS_FILE = '/etc/apt/sources.list.d/skein-backports.list';
const BACKPORTS_LINE = 'deb http://deb.debian.org/debian bookworm-backports main';
const APT = 'DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120';

/**
 * Fields of /etc/os-release.
 * @param {string} text
 */
export function parseOsRelease(text) {
  /** @type {Map<string, string>} */
  const fields = new Map();
  for (const line of text.split('\n')) {
    const match = /^([A-Z_]+)=(?:"(.*)"|'(.*)'|(.*))$/.exec(line.trim());
    if (match !== null) fields.set(match[1] ?? '', match[2] ?? match[3] ?? match[4] ?? '');
  }
  const id = fields.get('ID') ?? '';
  return { id, version: fields.get('VERSION_ID') ?? '', family: [id, ...(fields.get('ID_LIKE') ?? '').split(' ')] };
}

/**
 * Whether an apt source (one-line or deb822 style) names Debian 12's backports outside a comment.
 * @param {string} text
 */
export const namesBackports = (text) =>
  text.split('\n').some((line) => !line.trim().startsWith('#') && /\bbookworm-backports\b/.test(line));

/**
 * How to get what is missing on this machine.
 * @param {Machine} machine
 * @param {readonly Need[]} needs
 * @returns {Plan}
 */
export function plan(machine, needs) {
  if (machine.platform !== 'linux') return { kind: 'advice', text: elsewhere(machine, needs) };
  const release = parseOsRelease(machine.osRelease);
  if (!release.family.includes('debian')) return otherLinux(release.family, needs);
  // Ubuntu's package of that name only fetches a snap, which cannot be driven from a test.
  if (needs.includes('chromium') && release.family.includes('ubuntu'))
    return { kind: 'advice', text: 'Install Chrome or Chromium (not as a snap) and set SKEIN_CHROMIUM to its path.' };
  const commands = aptCommands(needs, release.id === 'debian' && release.version === '12', machine.hasBackports);
  if (machine.isRoot) return { kind: 'apt', commands };
  return { kind: 'copy', line: `sudo sh -c '${commands.join(' && ')}'` };
}

/**
 * @param {readonly Need[]} needs
 * @param {boolean} isBookworm
 * @param {boolean} hasBackports
 */
function aptCommands(needs, isBookworm, hasBackports) {
  // Debian 12's own Mesa is too old for Dawn, the WebGPU implementation; its backports have one that works.
  const backports = isBookworm && needs.includes('vulkan');
  const commands = backports && !hasBackports ? [`echo "${BACKPORTS_LINE}" > ${BACKPORTS_FILE}`] : [];
  commands.push(`${APT} update`);
  if (needs.includes('vulkan'))
    commands.push(`${APT} install -y ${backports ? '-t bookworm-backports ' : ''}mesa-vulkan-drivers libvulkan1`);
  if (needs.includes('chromium')) commands.push(`${APT} install -y --no-install-recommends chromium`);
  return commands;
}

const LINUX_PACKAGES = [
  { family: 'fedora', install: 'dnf install -y', vulkan: 'mesa-vulkan-drivers vulkan-loader', chromium: 'chromium' },
  { family: 'rhel', install: 'dnf install -y', vulkan: 'mesa-vulkan-drivers vulkan-loader', chromium: 'chromium' },
  { family: 'arch', install: 'pacman -S --needed', vulkan: 'vulkan-swrast vulkan-icd-loader', chromium: 'chromium' },
  { family: 'suse', install: 'zypper install -y', vulkan: 'libvulkan_lvp libvulkan1', chromium: 'chromium' },
];

/**
 * @param {readonly string[]} family
 * @param {readonly Need[]} needs
 * @returns {Plan}
 */
function otherLinux(family, needs) {
  const known = LINUX_PACKAGES.find((entry) => family.includes(entry.family));
  if (known !== undefined)
    return { kind: 'copy', line: `sudo ${known.install} ${needs.map((need) => known[need]).join(' ')}` };
  if (family.includes('alpine'))
    return { kind: 'advice', text: 'WebGPU needs glibc, which Alpine lacks. Use Debian 12 or newer, or Ubuntu 22.04.' };
  return { kind: 'advice', text: needs.map((need) => ANYWHERE[need]).join(' ') };
}

const ANYWHERE = {
  vulkan: "Install a Vulkan driver (your GPU maker's, or Mesa 25's lavapipe) and the loader libvulkan.so.1.",
  chromium: 'Install Chrome or Chromium and set SKEIN_CHROMIUM to its path.',
};

/**
 * @param {Machine} machine
 * @param {readonly Need[]} needs
 */
function elsewhere(machine, needs) {
  /** @type {Record<string, string>} */
  const gpu = {
    darwin: 'WebGPU found no GPU: it needs macOS 13 or newer and Metal (a virtual machine usually has none).',
    win32: 'WebGPU found no GPU: it needs Windows 10 or newer and a Direct3D 12 driver; update the graphics driver.',
  };
  return needs
    .map((need) => (need === 'vulkan' ? (gpu[machine.platform] ?? ANYWHERE.vulkan) : ANYWHERE.chromium))
    .join(' ');
}

/**
 * Whether what npm says is installed (node_modules/.package-lock.json) is what the lock file asks for. Packages for other
 * platforms are absent; everything else must be there in that version.
 * @param {unknown} lock
 * @param {unknown} installed
 */
export function isInstalled(lock, installed) {
  const wanted = packagesOf(lock);
  const present = packagesOf(installed);
  for (const [path, entry] of wanted) {
    if (path === '') continue;
    const found = present.get(path);
    if (found === undefined ? entry.optional !== true && entry.devOptional !== true : found.version !== entry.version)
      return false;
  }
  return wanted.size > 0;
}

/**
 * @param {unknown} lock
 * @returns {Map<string, { version?: unknown, optional?: unknown, devOptional?: unknown }>}
 */
function packagesOf(lock) {
  if (typeof lock !== 'object' || lock === null || !('packages' in lock)) return new Map();
  const { packages } = lock;
  return typeof packages === 'object' && packages !== null ? new Map(Object.entries(packages)) : new Map();
}
