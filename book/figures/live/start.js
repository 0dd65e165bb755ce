/* Bring the live figures' script and style sheet, once for a page. In Jupyter they are not there. */
if (!document.querySelector("script[data-setr-live]")) {
  const place = "../_static/live/live";
  const script = Object.assign(document.createElement("script"), { src: `${place}.js` });
  script.dataset.setrLive = "";
  const style = Object.assign(document.createElement("link"), {
    rel: "stylesheet",
    href: `${place}.css`,
  });
  document.head.append(style, script);
}
