/* How the search ranks what it finds: pages first, then the library's entries, each with the first
   words of its page, which `publication.py` has written into `excerpts.js`. */
var Scorer = {
  score: (found) => {
    const [page, , , said, score] = found;
    found[3] = said || window.EXCERPTS?.[page];
    return page.startsWith("book/api/") ? score - 100 : score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
