"""Files written whole, tables, and progress: what every room writes by."""
