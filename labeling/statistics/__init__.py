"""Statistics of rankings, as functions of plain numbers: numpy alone, no Django, no database."""
