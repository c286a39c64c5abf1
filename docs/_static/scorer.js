// How search results are ranked: the guide before the reference of names that only contain the
// query, both before the figures, and all before the milestones and the changes. `Scorer` is the
// interface of Sphinx: the numbers are its own.
var Scorer = {
  score: ([page, , , , score]) => {
    const below = { stack: 2000, project: 1000, performance: 500 };
    return score - (below[page.split("/")[0]] ?? 0);
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
