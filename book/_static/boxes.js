/* Whatever scrolls sideways can be reached with the keyboard, and nothing else is a stop for it. */
(function () {
  "use strict";
  const boxes = ".bd-article :is(pre, .output, .table-box, .pst-scrollable-table-container)";

  function mark() {
    for (const box of document.querySelectorAll(boxes)) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  window.addEventListener("load", mark);
  window.addEventListener("resize", mark);
  document.addEventListener("toggle", mark, true); /* a box in a fold has no width until then */
})();
