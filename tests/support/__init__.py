"""What tests share: peers, protocols that record their calls, certificates, programs. No test lives here."""
