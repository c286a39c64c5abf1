// How search results are ranked: what is named in full, then the guide, then names that contain
// the query; figures, changes and milestones below all others. `Scorer` is the interface of
// Sphinx: the numbers are its own, and 15 is a word of a heading.
var Scorer = {
  score: ([page, , , , score]) => {
    const [folder, below] = page.split("/");
    if (below === undefined && folder !== "performance")
      return score + (score >= 15 ? 15 : 8);
    return score - ({ stack: 2000, project: 1000, performance: 500 }[folder] ?? 0);
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
