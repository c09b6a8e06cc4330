// The page without tasks: send rankings that an earlier page kept, and undo the last one with Z.
import { find, findOptional } from "../dom.js";
import { keyOf } from "../keys.js";
import { Notes } from "./notes.js";
import { Outbox, troubleOf } from "./outbox.js";

const root = find(document, "#outbox-note");
const outbox = new Outbox(root);
const notes = new Notes(root);
/** @type {import("./outbox.js").Trouble | null} */
let trouble = null;

async function flush() {
  for (let entry = outbox.waiting()[0]; entry; entry = outbox.waiting()[0]) {
    const fresh = await outbox.freshToken();
    const outcome = await outbox.send(entry, "", "token" in fresh ? fresh.token : "");
    trouble = troubleOf(outcome);
    if (trouble) {
      setTimeout(flush, 5000);
      break;
    }
    outbox.remove(entry);
    if (outcome.kind === "refused") location.assign(outbox.reviewUrl);
    if (outcome.kind === "sent") afterSend(outcome.reply);
    if (outcome.kind === "rejected") outbox.keep({ ...entry, refused: true });
  }
  notes.paint({ outbox, trouble, retry: flush });
}

/** @param {import("./outbox.js").SentReply} reply */
function afterSend(reply) {
  if (reply.sheet && !outbox.waiting().length) location.assign(outbox.reviewUrl);
  if (reply.go) location.assign(reply.go);
  if (reply.message) notes.add(reply.message);
}

window.addEventListener("online", flush);
document.addEventListener("keydown", (event) => {
  const form = findOptional(document, "[data-undo]", HTMLFormElement);
  const typing = event.target instanceof Element && event.target.closest("input, textarea, select");
  if (form && keyOf(event) === "z" && !typing) form.requestSubmit();
});
flush();
