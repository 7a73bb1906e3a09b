/* The glossary's definition of a term, where a link to it is pointed at or has the focus.

   glossary-terms.js, written when the book is built, sets window.ecomkdTerms: anchor to text. The
   text stays while the pointer is on it; Escape puts it away. Without this script a term is a link. */
(function () {
  "use strict";

  const terms = window.ecomkdTerms ?? {};
  const box = document.createElement("div");
  box.id = "term-definition";
  box.role = "tooltip";
  box.hidden = true;
  let shown, leaving;

  function show(link) {
    clearTimeout(leaving);
    if (shown === link) return;
    hide();
    box.textContent = terms[anchor(link)];
    box.hidden = false;
    shown = link;
    link.setAttribute("aria-describedby", box.id);
    const word = link.getClientRects()[0];
    const width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(word.left, width - box.offsetWidth - 8));
    const above = word.top - box.offsetHeight - 4;
    const under = link.getBoundingClientRect().bottom + 4; // all lines of a link that is broken
    const top = above > 60 ? above : under; // 60: the bar at the top covers what is under it
    box.style.left = `${left + scrollX}px`;
    box.style.top = `${top + scrollY}px`;
  }

  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = undefined;
    box.hidden = true;
  }

  function hideSoon() {
    leaving = setTimeout(() => {
      const at = document.activeElement; // its definition stays while it has the focus
      if (at?.matches(".term")) show(at);
      else hide();
    }, 200);
  }

  function anchor(link) {
    return decodeURIComponent(link.hash.slice(1));
  }

  const links = document.querySelectorAll('.bd-article a[href*="glossary.html#term-"]');
  for (const link of links) {
    if (!terms[anchor(link)]) continue;
    link.classList.add("term");
    link.addEventListener("pointerenter", () => show(link));
    link.addEventListener("pointerleave", hideSoon);
    link.addEventListener("focus", () => show(link));
    link.addEventListener("blur", () => shown === link && hide());
  }
  box.addEventListener("pointerenter", () => clearTimeout(leaving));
  box.addEventListener("pointerleave", hideSoon);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.body.append(box);
})();
