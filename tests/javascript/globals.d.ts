// What the scripts find on every page without importing it.
import "uplot"; // the vendored build defines the global `uPlot`

declare global {
  // Translation, from Django's /i18n.js.
  function gettext(text: string): string;
  function ngettext(singular: string, plural: string, count: number): string;
  function interpolate(format: string, values: readonly (string | number)[]): string;
  function interpolate(format: string, values: Record<string, string | number>, named: true): string;

  interface DocumentEventMap {
    /** A ranking sheet was put on the page. */
    "sheet:shown": CustomEvent<{ form: HTMLFormElement }>;
  }
}
