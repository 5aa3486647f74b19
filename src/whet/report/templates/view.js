"use strict";
const rows = [...document.querySelectorAll("li")];
const detail = document.getElementById("detail");

function choose(row) {
  rows.forEach((other) => other.classList.remove("chosen", "peer"));
  row.classList.add("chosen");
  const peers = row.dataset.peers.split(" ").filter(Boolean).map((key) => document.getElementById(key));
  peers.forEach((peer) => peer.classList.add("peer"));
  if (peers.length) peers[0].scrollIntoView({ block: "center" });
  row.scrollIntoView({ block: "nearest" });
  detail.replaceChildren(row.querySelector("dl").cloneNode(true));
  history.replaceState(null, "", "#" + row.id);
}

rows.forEach((row) => row.firstElementChild.addEventListener("click", () => choose(row)));
document.getElementById("search").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  let first = null;
  rows.forEach((row) => {
    const found = row.textContent.toLowerCase().includes(wanted);
    row.classList.toggle("dim", !found);
    if (found && wanted && !first) first = row;
  });
  if (first) first.scrollIntoView({ block: "center" });
});
const start = location.hash && document.getElementById(location.hash.slice(1));
if (start && rows.includes(start)) choose(start);
