// Search for pages that are opened from the disk, where browsers start no worker: a hidden frame stands in for it.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.ready = new Promise(loaded => (this.frame.onload = loaded))
      this.frame.srcdoc = `<script>
        postMessage = parent.postMessage.bind(parent)
        importScripts = (...urls) => Promise.all(urls.map(url => new Promise(loaded => {
          const script = document.createElement("script")
          script.src = url
          script.onload = loaded
          document.head.append(script)
        })))
      </` + `script><script src="${url}"></` + `script>`
      document.body.append(this.frame)
      window.addEventListener("message", event => {
        if (event.source !== this.frame.contentWindow) return
        const message = new MessageEvent("message", {data: event.data})
        this.dispatchEvent(message)
        this.onmessage?.(message)
      })
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data})))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
