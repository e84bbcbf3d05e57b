"""Proof: what shows that nothing was lost or changed. Imports only the contract; a verifier needs no other part."""
