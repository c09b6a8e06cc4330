// Apply the theme cookie before the first paint, on pages that the server renders without it (the admin).
{
  const theme = /(?:^|; )theme=(light|dark)(?:;|$)/.exec(document.cookie);
  if (theme) document.documentElement.dataset.theme = theme[1];
}
