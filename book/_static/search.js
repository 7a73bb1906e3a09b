/* Search in the page: a static student and BM25 over one catalogue, without a server.

   search_data.js, written by ecomkd/search/page.py, sets window.ecomkdSearch. The first half of
   this file is what a search engine does, as pure functions of an opened index; they hang on
   window.ecomkdRanker. The second half shows it to a reader, in the element #search-page. What
   that element may say of itself: data-query, a query that is asked at once; data-try, queries
   to press, apart by "|"; data-shown, how many products a list has; data-level, of its headings;
   data-words, the weight of BM25 in a third list, the sum of both scores. */
(function () {
  "use strict";

  const FORMAT = 2;
  const SHOWN = 10;
  const LABELS = [["E", "exact"], ["S", "substitute"], ["C", "complement"], ["I", "irrelevant"]];
  const ASK = "Type a query, or choose a sample.";

  /* ---- Reading the data file ---- */

  function bytes(base64) {
    const text = atob(base64);
    const out = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
    return out;
  }

  /* Seven bits a byte, the lowest first; the eighth bit says that more bytes follow. */
  function varints(raw) {
    const numbers = [];
    for (let i = 0; i < raw.length; i++) {
      let number = raw[i] & 127;
      for (let shift = 7; raw[i] > 127; shift += 7) number += (raw[++i] & 127) << shift;
      numbers.push(number);
    }
    return numbers;
  }

  /* For each token the products that have it: [product, count, product, count, …]. */
  function postings(numbers) {
    const lists = new Map();
    for (let i = 0, token = 0; i < numbers.length; ) {
      token += numbers[i++];
      const list = new Array(2 * numbers[i++]);
      for (let j = 0, product = 0; j < list.length; j += 2) {
        list[j] = product += numbers[i++];
        list[j + 1] = numbers[i++];
      }
      lists.set(token, list);
    }
    return lists;
  }

  /* The index that all functions below take. Throws an Error that says what is wrong. */
  function open(data) {
    if (data.format !== FORMAT) throw new Error(`format ${data.format} instead of ${FORMAT}`);
    const { width, products } = data;
    const characters = {};
    for (const [kind, members] of Object.entries(data.characters)) {
      characters[kind] = new RegExp(`[${members}]`, "gu");
    }
    const special = data.special.map((token) => token.replace(/\W/g, "\\$&")).join("|");
    const index = {
      ...data,
      characters,
      special: new RegExp(`(${special})`),
      idOf: new Map(data.vocabulary.map((token, id) => [token, id])),
      count: products.ids.length,
      tokens: new Int8Array(bytes(data.tokens).buffer),
      scales: new Float32Array(bytes(data.scales).buffer),
      products: new Int8Array(bytes(products.vectors).buffer),
      titles: products.titles,
      ids: products.ids,
      postings: postings(varints(bytes(data.bm25.postings))),
    };
    if (
      index.scales.length !== data.vocabulary.length ||
      index.tokens.length !== data.vocabulary.length * width ||
      index.products.length !== index.count * width ||
      index.titles.length !== index.count
    ) {
      throw new Error("its tables are not of one size");
    }
    index.norms = Float64Array.from(index.ids, (_, product) => {
      const at = product * width;
      return Math.hypot(...index.products.subarray(at, at + width));
    });
    index.lengths = new Float64Array(index.count);
    for (const list of index.postings.values()) {
      for (let i = 0; i < list.length; i += 2) index.lengths[list[i]] += list[i + 1];
    }
    index.meanLength = index.lengths.reduce((sum, length) => sum + length, 0) / index.count;
    return index;
  }

  /* ---- Text to WordPiece ids, as uncased BERT does it ---- */

  function words(index, text) {
    const { control, ideograph, mark, punctuation } = index.characters;
    const bare = text
      .replace(control, "")
      .replace(ideograph, " $& ")
      .normalize("NFD")
      .replace(mark, "");
    // One character at a time: the final sigma of a Greek word stays an ordinary one.
    const lower = Array.from(bare, (character) => character.toLowerCase()).join("");
    return lower.replace(punctuation, " $& ").split(/\s+/).filter(Boolean);
  }

  /* The longest piece that the vocabulary has, then the longest of the rest, and so on. */
  function pieces(index, word) {
    const letters = Array.from(word);
    if (letters.length > index.longest) return [index.unknown];
    const ids = [];
    for (let start = 0, end; start < letters.length; start = end) {
      let id;
      for (end = letters.length; end > start; end--) {
        const piece = (start ? "##" : "") + letters.slice(start, end).join("");
        if ((id = index.idOf.get(piece)) !== undefined) break;
      }
      if (id === undefined) return [index.unknown];
      ids.push(id);
    }
    return ids;
  }

  function tokenise(index, text) {
    // [UNK] and its like, typed as they stand, are tokens. split() puts them at odd places.
    return text.split(index.special).flatMap((part, place) =>
      place % 2
        ? [index.idOf.get(part)]
        : words(index, part).flatMap((word) => pieces(index, word)),
    );
  }

  /* ---- Scores, one for each product ---- */

  /* The static student: the mean of the token vectors, scaled to length 1. */
  function embed(index, ids) {
    const { width, tokens, scales } = index;
    const vector = new Float64Array(width);
    for (const id of ids) {
      for (let i = 0; i < width; i++) vector[i] += tokens[id * width + i] * scales[id];
    }
    const length = Math.hypot(...vector);
    return length ? vector.map((value) => value / length) : vector;
  }

  function cosines(index, vector) {
    const { width, products, norms } = index;
    const scores = new Float64Array(index.count);
    for (let product = 0; product < index.count; product++) {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += vector[i] * products[product * width + i];
      scores[product] = norms[product] ? sum / norms[product] : 0;
    }
    return scores;
  }

  /* Lucene's variant. A token that the query repeats counts each time. */
  function bm25(index, ids) {
    const { k1, b } = index.bm25;
    const scores = new Float64Array(index.count);
    for (const id of ids) {
      const list = index.postings.get(id) ?? [];
      const having = list.length / 2;
      const rarity = Math.log(1 + (index.count - having + 0.5) / (having + 0.5));
      for (let i = 0; i < list.length; i += 2) {
        const length = index.lengths[list[i]] / index.meanLength;
        scores[list[i]] += (rarity * list[i + 1]) / (k1 * (1 - b + b * length) + list[i + 1]);
      }
    }
    return scores;
  }

  /* Product rows, best first; equal scores in the catalogue's order. */
  function rank(scores) {
    return Array.from(scores.keys()).sort((x, y) => scores[y] - scores[x] || x - y);
  }

  /* Everything that one keystroke needs. */
  function search(index, text, shown = SHOWN, weight = 0) {
    const ids = tokenise(index, text);
    const top = (scores) =>
      rank(scores).slice(0, shown).map((row) => ({ row, score: scores[row] }));
    const near = cosines(index, embed(index, ids));
    const shared = bm25(index, ids);
    return {
      ids,
      known: ids.some((id) => id !== index.unknown),
      student: top(near),
      bm25: top(shared).filter(({ score }) => score > 0),
      sum: top(near.map((score, product) => score + weight * shared[product])),
    };
  }

  /* The class of a product for a sample query whose labels are known: 0 to 3 for E, S, C, I. */
  function labelOf(sample, row) {
    const found = sample.labels.findIndex((rows) => rows.includes(row));
    return found < 0 ? LABELS.length - 1 : found;
  }

  /* nDCG of the first products of a list, beside the best list that the catalogue could give. */
  function ndcg(index, sample, results, shown = SHOWN) {
    const dcg = (labels) =>
      labels
        .slice(0, shown)
        .reduce((sum, label, rank) => sum + index.gains[label] / Math.log2(rank + 2), 0);
    const best = sample.labels.flatMap((rows, label) => rows.map(() => label));
    return dcg(results.map(({ row }) => labelOf(sample, row))) / dcg(best);
  }

  window.ecomkdRanker = {
    open, words, pieces, tokenise, embed, cosines, bm25, rank, search, labelOf, ndcg,
  };

  /* ---- The page ---- */

  function element(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  function labelled(label, field) {
    return element("div", {}, element("label", { for: field.id }, label), field);
  }

  function ranking(name, title, level) {
    const note = element("p");
    const list = element("ol");
    const heading = element(`h${level}`, { id: `search-${name}` }, title);
    const section = element("section", { "aria-labelledby": heading.id }, heading, note, list);
    return { section, note, list };
  }

  function fill({ note, list }, index, sample, results, remark) {
    const items = results.map(({ row, score }) => {
      const item = element("li", { "data-product": index.ids[row] }, index.titles[row]);
      if (sample?.labels) {
        const [letter, name] = LABELS[labelOf(sample, row)];
        item.prepend(element("abbr", { title: name, "data-label": letter }, letter), " ");
      }
      if (score !== undefined) item.append(" ", element("span", {}, score.toFixed(2)));
      return item;
    });
    list.replaceChildren(...items);
    note.textContent = remark;
  }

  function build(place, index) {
    const input = element("input", { id: "search-query", type: "search", autocomplete: "off" });
    input.spellcheck = false;
    const shown = Number(place.dataset.shown ?? SHOWN);
    const level = place.dataset.level ?? 2;
    const own = element("option", { value: "" }, "a query of your own");
    const select = element("select", { id: "search-sample" }, own);
    select.append(...index.samples.map(({ query }) => element("option", { value: query }, query)));
    const fields = [labelled("Query", input), labelled("Sample queries", select)];
    const form = element("form", { role: "search", "aria-label": "Catalogue" }, ...fields);
    const cut = element("p", { class: "pieces" });
    const time = element("p", { class: "time" });
    const spoken = element("p", { class: "spoken", "aria-live": "polite" });
    const student = ranking("student", "Static student", level);
    const lexical = ranking("bm25", "BM25", level);
    const weight = Number(place.dataset.words ?? 0);
    const both = ranking("sum", "Both, added up", level);
    const teacher = ranking("teacher", "Teacher", level);
    const lists = element("div", { class: "lists" });
    lists.append(student.section, lexical.section);
    if (weight) lists.append(both.section);
    lists.append(teacher.section);
    const tries = element("p", { class: "tries" });
    for (const query of place.dataset.try?.split("|") ?? []) {
      const button = element("button", { type: "button" }, query);
      button.addEventListener("click", (event) => ask(query, event));
      tries.append(button, " ");
    }
    if (tries.childNodes.length) tries.prepend("Try ");
    place.replaceChildren(form, tries, cut, time, spoken, lists);
    const title = ([first]) => (first ? index.titles[first.row] : "nothing");
    let waiting;
    let typed = ""; // the last query that is no sample

    function update(event) {
      const begin = performance.now();
      const found = search(index, input.value, shown, weight);
      const spent = performance.now() - begin;
      const sample = index.samples.find(({ query }) => query === input.value.trim());
      if (!sample) typed = input.value;
      const best = (sample ? sample.teacher : []).slice(0, shown);
      const common = (results) => results.filter(({ row }) => best.includes(row)).length;
      const worth = (results) =>
        sample?.labels ? `nDCG@${shown} ${ndcg(index, sample, results, shown).toFixed(3)}. ` : "";
      const shared = (results) =>
        sample
          ? worth(results) +
            `${common(results)} of these are among the teacher's first ${best.length}.`
          : "";

      let problem = "";
      if (!found.ids.length) problem = ASK;
      else if (!found.known) problem = "No results: none of these words is known.";
      lists.hidden = problem !== "";
      teacher.section.hidden = !sample;
      select.value = sample ? sample.query : "";
      fill(student, index, sample, found.student, shared(found.student));
      fill(lexical, index, sample, found.bm25, found.bm25.length
        ? shared(found.bm25) : `${worth(found.bm25)}No product has any of these pieces.`);
      fill(both, index, sample, found.sum, shared(found.sum));
      const ordered = best.map((row) => ({ row }));
      fill(teacher, index, sample, ordered,
        `${worth(ordered)}Stored, for the sample queries alone.`);
      cut.textContent =
        problem || `Pieces: ${found.ids.map((id) => index.vocabulary[id]).join(" · ")}`;
      const products = index.count.toLocaleString("en");
      time.textContent = problem ? "" :
        `${products} products in ${spent.toFixed(1)} ms (pieces, scores, order)`;
      if (!event) {
        if (!problem) time.textContent += ".";
        return; // nobody has asked yet
      }
      const all = performance.now() - event.timeStamp;
      if (!problem) {
        time.textContent += `; ${all.toFixed(1)} ms from your input until the lists stood here.`;
      }
      clearTimeout(waiting); // a screen reader hears the outcome once the typing rests
      waiting = setTimeout(() => {
        spoken.textContent = problem ||
          `First by the static student: ${title(found.student)}. By BM25: ${title(found.bm25)}.`;
      }, 700);
    }

    function ask(query, event) {
      input.value = query;
      update(event);
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    input.addEventListener("input", update);
    select.addEventListener("change", (event) => ask(select.value || typed, event));
    ask(place.dataset.query ?? "");
  }

  function start(place) {
    let fault = "is missing or cut short";
    try {
      if (window.ecomkdSearch) {
        build(place, open(window.ecomkdSearch));
        return;
      }
    } catch (error) {
      fault = `is damaged (${error.message})`;
    }
    const sentence = `This page cannot search, for its data file _static/search_data.js ${fault}`;
    place.replaceChildren(element("p", { role: "alert" }, `${sentence}; build the book again.`));
  }

  const place = document.getElementById("search-page");
  if (place) {
    // The data file has megabytes: the page does not wait for it, and it may be here already.
    place.append(element("p", {}, "The catalogue is being loaded …"));
    if (window.ecomkdSearch || document.readyState === "complete") start(place);
    else window.addEventListener("load", () => start(place));
  }
})();
