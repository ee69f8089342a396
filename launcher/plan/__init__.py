"""Pure arithmetic: (recipe, nodes) -> Plan. Every derived number lives here once."""
