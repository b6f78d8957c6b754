"""Where the service remembers: tables, transactions, migrations."""
