// Nothing is left to rank: what an earlier page kept is sent, and Z takes back what was just sent.
import { keyOf } from "./keys.js";
import { Notes } from "./review-notes.js";
import { Outbox } from "./review-outbox.js";

const root = document.getElementById("outbox-note");
const { outbox: scope, reviewUrl, nextUrl } = root.dataset;
const outbox = new Outbox({ scope, reviewUrl, nextUrl });
const notes = new Notes(root);
let trouble = null;

async function flush() {
  for (let entry = outbox.waiting()[0]; entry; entry = outbox.waiting()[0]) {
    const token = (await outbox.freshToken()).token ?? "";
    const { kind, reply } = await outbox.send(entry, "", token);
    trouble = ["offline", "unanswered", "signed-out"].includes(kind) ? kind : null;
    if (trouble) {
      setTimeout(flush, 5000);
      break;
    }
    outbox.remove(entry);
    if (kind === "refused" || (kind === "sent" && reply.sheet && !outbox.waiting().length)) location.assign(reviewUrl);
    if (kind === "sent" && reply.go) location.assign(reply.go);
    if (kind === "sent" && reply.message) notes.tell(reply.message);
    if (kind === "rejected") outbox.keep({ ...entry, refused: true });
  }
  notes.paint({ outbox, trouble, retry: flush });
}

window.addEventListener("online", flush);
document.addEventListener("keydown", (event) => {
  const form = document.querySelector("[data-undo]");
  if (form && keyOf(event) === "z" && !event.target.closest("input, textarea, select")) form.requestSubmit();
});
flush();
