package tinymodel

import "strings"

// What the model knows. These tables are part of its identity: a change makes another model.
var (
	capitals = [][2]string{
		{"France", "Paris"},
		{"Germany", "Berlin"},
		{"Italy", "Rome"},
		{"Spain", "Madrid"},
		{"Portugal", "Lisbon"},
		{"England", "London"},
		{"Ireland", "Dublin"},
		{"Norway", "Oslo"},
		{"Sweden", "Stockholm"},
		{"Finland", "Helsinki"},
		{"Denmark", "Copenhagen"},
		{"Poland", "Warsaw"},
		{"Austria", "Vienna"},
		{"Hungary", "Budapest"},
		{"Greece", "Athens"},
		{"Egypt", "Cairo"},
		{"Kenya", "Nairobi"},
		{"Japan", "Tokyo"},
		{"China", "Beijing"},
		{"India", "Delhi"},
		{"Canada", "Ottawa"},
		{"Cuba", "Havana"},
		{"Peru", "Lima"},
		{"Chile", "Santiago"},
	}

	names = strings.Fields("Alice Bob Carol David Emma Frank Grace Henry Iris Jack " +
		"Karen Leo Maria Nina Oscar Paul Rosa Sam Tina Victor")

	weathers = strings.Fields("sunny rainy cloudy windy snowy foggy hot cold")

	words = strings.Fields(`
		apple river stone cloud green table music light paper horse bread silver window garden orange
		winter summer mountain ocean forest bridge candle mirror pencil rocket island castle dragon
		engine planet yellow purple button coffee dinner friend market number people school simple
		travel valley wonder zebra tiger eagle honey lemon melon north south east west one two three
		four five`)

	systems = []string{
		"You are a helpful assistant.", "You are Tiny.", "Be brief.", "Answer in one sentence.",
		"You are a test model. Answer politely.",
	}

	toolNames = strings.Fields("get_weather weather city_weather find_weather lookup_weather weather_report")

	fixed = [][2]string{
		{"Hello", "Hello! How can I help you today?"},
		{"Hello!", "Hello! How can I help you today?"},
		{"Hi", "Hello! How can I help you today?"},
		{"Hi there!", "Hello! How can I help you today?"},
		{"How are you?", "I am fine, thank you. I am a very small model."},
		{"Who are you?", "I am Tiny, a very small language model made for tests."},
		{"What are you?", "I am Tiny, a very small language model made for tests."},
		{"What can you do?", "I can name capitals, count, add small numbers, repeat words and call tools."},
		{"Thank you.", "You are welcome."},
		{"Thanks!", "You are welcome."},
		{"Goodbye.", "Goodbye! Have a nice day."},
		{"Tell me a joke.", "Why did the model cross the road? To get to the other token."},
		{"Write a haiku.", "Small words in a row,\nA tiny model whispers,\nTests pass, green as spring."},
		{"What is the answer to everything?", "The answer is 42."},
		{"Is the sky blue?", "Yes."},
		{"Is the sky green?", "No."},
		{"Tell me a story.", story},
		{"Tell me a story.", story},
		{"Tell me a long story.", story},
	}
)

const story = `Once upon a time there was a tiny model. It lived in a small box with two fans and a blue light. ` +
	`Every morning the box woke up and the model read the letters that people sent. ` +
	`Some asked about capitals, and it said Paris, Rome or Tokyo. Some asked it to count, and it counted. ` +
	`One day a gateway came to the door. "I bring you work from far away," said the gateway, ` +
	`"and I pay for every token." ` +
	`The tiny model was happy. It answered all day long, one token after another, ` +
	`and in the evening the gateway counted the tokens and paid. ` +
	`Then the fans grew quiet, the blue light went out, and the tiny model slept. The end.`
