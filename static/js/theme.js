// Pages that the server renders without the cookie (the admin's) read it here, before they paint.
{
  const theme = /(?:^|; )theme=(light|dark)(?:;|$)/.exec(document.cookie);
  if (theme) document.documentElement.dataset.theme = theme[1];
}
