package gateway

import (
	"cmp"
	"errors"

	"cocoon/gateway/rates"
)

// USDConfig says where the rate of the coin in dollars comes from. It is a view: money stays in nanoTON.
type USDConfig struct {
	// Coin is the ticker that people see: the coin was renamed from TON. Default GRAM.
	Coin string `yaml:"coin"`
	// Symbol takes the place of {symbol} in the sources' URLs and paths. Default GRAM.
	Symbol string `yaml:"symbol"`
	// Quorum is how many sources must agree within 2 %. Default 3, or all of them if there are fewer.
	Quorum int `yaml:"quorum"`
	// Sources are services that answer with JSON, by different operators. At least one is required; one alone says what it
	// likes.
	Sources []USDSource `yaml:"sources"`
}

// USDSource is one service.
type USDSource struct {
	// Name is what the rate's record calls it: 1 to 32 of a-z 0-9 . -. Required.
	Name string `yaml:"name"`
	// URL is asked with GET, https:// or http://. It may hold a key: it is never logged. Required.
	URL string `yaml:"url"`
	// Path leads to the price in dollars in the answer's JSON, such as data.0.last. Required.
	Path string `yaml:"path"`
	// Symbol is what this source calls the coin. Default: that of the section.
	Symbol string `yaml:"symbol"`
}

// rates is the section in the words of package rates.
func (c *USDConfig) rates() rates.Config {
	const coin = "GRAM"
	r := rates.Config{Coin: cmp.Or(c.Coin, coin), Quorum: c.Quorum}
	for _, s := range c.Sources {
		r.Sources = append(r.Sources, rates.Source{Name: s.Name, URL: s.URL, Path: s.Path, Symbol: cmp.Or(s.Symbol, c.Symbol, coin)})
	}
	return r
}

func (c *USDConfig) validate() error {
	if len(c.Sources) == 0 {
		return errors.New("sources: missing; name services that know the price")
	}
	return nil
}
