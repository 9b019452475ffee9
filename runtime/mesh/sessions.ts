// Routes the monitor's signals and relayed bytes to the transport session that they belong to. WebRTC and relay both ride on it.
import type { PeerId } from '../wire/ids.ts';
import type { Monitor, MonitorMessage } from './monitor-client.ts';

type SessionListener = (message: MonitorMessage) => void;

export class Sessions {
  readonly monitor: Monitor;
  readonly #open = new Map<string, SessionListener>();
  readonly #accept = new Map<string, (from: PeerId, session: string, message: MonitorMessage) => void>();
  readonly #stop: () => void;

  constructor(monitor: Monitor) {
    this.monitor = monitor;
    this.#stop = monitor.onMessage((message) => this.#route(message));
  }

  /** Session names start with their transport, so that a first message finds who accepts it. */
  accept(prefix: 'rtc' | 'relay', onFirst: (from: PeerId, session: string, message: MonitorMessage) => void): void {
    this.#accept.set(prefix, onFirst);
  }

  open(session: string, listener: SessionListener): () => void {
    this.#open.set(session, listener);
    return () => this.#open.delete(session);
  }

  close(): void {
    this.#stop();
    this.#open.clear();
    this.#accept.clear();
  }

  #route(message: MonitorMessage): void {
    if (message.kind === 'lost') {
      for (const listener of [...this.#open.values()]) listener(message);
      return;
    }
    const listener = this.#open.get(message.session);
    if (listener) listener(message);
    else if (message.kind !== 'absent')
      this.#accept.get(message.session.split('-', 1)[0] ?? '')?.(message.from, message.session, message);
  }
}
