// What is asked before something goes that is rarely meant: an empty text, or one nobody touched.

import { confirm } from "./dialog.js";

/** Whether the text in `editor` is to go as it is; asks where it is empty or unchanged. */
export async function isMeant(editor) {
  if (!editor.shown.trim())
    return confirm("Hand in an empty response?", "The text is empty. The model would learn to say nothing here.", "Hand in empty");
  if (!editor.isChanged)
    return confirm("Nothing is changed", "Handed in as it is, the response counts as right. Otherwise change it, or say in a comment what is wrong.", "Accept as it is");
  return true;
}
