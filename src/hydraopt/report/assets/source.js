"use strict";
// Questions about the data of the page, such as the tasks that pass a filter, in an order.

H.perPage = 50;

H.orders = {
  harm: (x) => [H.missing(x.harm) ? -1 : x.harm, x.likely || 0, x.kl || 0, x.error],
  error: (x) => [x.error],
  size: (x) => [x.own_bytes + x.carried_bytes],
  drop: (x) => [-(x.judged?.difference ?? 0)],
};

H.source = (page) => {
  const compare = (a, b) => { for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return b[i] - a[i]; return 0; };
  const names = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  return {
    tasks: async (wanted) => {
      const query = wanted.query.toLowerCase();
      const left = page.tasks.filter((x) => x.name.toLowerCase().includes(query) &&
        ["language", "group", "kind"].every((key) => !wanted[key] || wanted[key] === x[key]));
      if (wanted.sort === "name") left.sort((a, b) => (wanted.up ? -1 : 1) * names(a, b));
      else {
        const key = H.orders[wanted.sort];
        left.sort((a, b) => (wanted.up ? -1 : 1) * compare(key(a), key(b)) || names(a, b));
      }
      return { total: left.length, tasks: left.slice(wanted.from, wanted.from + H.perPage) };
    },
    task: async (name) => {
      const task = page.tasks.find((x) => x.name === name);
      if (!task) return null;
      return { task, layers: Object.hasOwn(page.layers, name) ? page.layers[name] : null,
        examples: page.examples.filter((x) => x.task === name) };
    },
    examples: async (from, count) => ({ total: page.examples.length, examples: page.examples.slice(from, from + count) }),
  };
};
