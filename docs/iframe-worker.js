// Browsers start no web worker for a page that is opened from disk. There, the search runs in a hidden frame instead,
// which is how the theme expects a stand-in to behave; nothing is requested from elsewhere.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.window = frame.contentWindow;
      const inside = frame.contentDocument;
      this.window.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.window.importScripts = (...urls) => urls.reduce((before, next) => before.then(() => load(inside, next)), Promise.resolve());
      this.ready = load(inside, url);
    }
    postMessage(data) {
      this.ready.then(() => this.window.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {}
  }
  const load = (inside, url) => new Promise((done, failed) => {
    const script = inside.createElement("script");
    script.onload = done;
    script.onerror = failed;
    script.src = url;
    inside.body.append(script);
  });
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
